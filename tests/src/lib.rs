//! Namespace harness for SLB: a small network of real namespaces, real servers and clients in them, and the real
//! daemon between them.
//!
//! A [`World`] is one such network. It holds everything it made, and removes all of it when it is dropped; what a
//! crashed run left behind is removed when the next one starts. At most [`turn::LANES`] exist at a time, across
//! processes too, so that scenarios disturb one another little.

pub mod bench;
pub mod client;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod flaps;
pub mod forge;
pub mod leftovers;
pub mod net;
pub mod packets;
pub mod scenario;
pub mod server;
pub mod spread;
pub mod supervise;
pub mod tracking;
pub mod traffic;
pub mod tunnel;
pub mod turn;
pub mod wait;
pub mod world;

pub use scenario::scenario;
pub use world::World;
