//! Random changes of servers and of what is wanted of them, and what may become of flows meanwhile.

pub mod chaos;
pub mod model;
