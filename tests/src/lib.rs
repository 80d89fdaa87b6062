//! Test harness of SLB: a small network of namespaces with servers and clients, and the daemon between them.
//!
//! A [`World`] is one such network. Dropping it removes everything that it made. The next start removes what a crashed
//! run left. At most [`test_lock::LANES`] worlds exist at a time, across all processes, so that scenarios disturb one
//! another little.

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
pub mod test_lock;
pub mod tracking;
pub mod traffic;
pub mod tunnel;
pub mod wait;
pub mod world;

pub use scenario::scenario;
pub use world::World;
