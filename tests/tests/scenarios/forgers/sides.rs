//! Frames on the side that they do not belong to: a client's on the servers' side, a server's on the clients' side.
