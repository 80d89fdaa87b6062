//! ICMP errors that somebody draws on purpose: a client whose packets are too big still learns of it.
