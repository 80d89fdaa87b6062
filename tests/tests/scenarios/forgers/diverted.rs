//! Segments in a client's name from another station of the client's own link: answers do not go there. Where the client's router is
//! replaced, they follow it all the same.
