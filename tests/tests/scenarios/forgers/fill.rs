//! Blind fills of the flow table: each forged client sends a SYN and then an ACK of any numbers. Most have wrong checksums, as a
//! server would reset the connection for a wrong number.
