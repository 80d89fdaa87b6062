//! Segments in a connection's name from somebody who does not see it: RST, FIN, SYN and data with any numbers and checksums.
