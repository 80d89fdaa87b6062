//! Segments that begin with no SYN: what servers answer to them says nothing about the servers.
