//! Test harness of SLB: a small network of namespaces with servers and clients, and the daemon between them.
//!
//! A [`World`] is one such network. Dropping it removes everything that it made. The next start removes what a crashed
//! run left. At most [`test_lock::LANES`] worlds exist at a time, across all processes, so that scenarios disturb one
//! another little.
//!
//! The demo is built without the feature `checks`, and so without what only tests and benchmarks need.

#[cfg(feature = "checks")]
pub mod bench;
pub mod client;
pub mod config;
pub mod daemon;
pub mod demo;
#[cfg(feature = "checks")]
pub mod eligible_servers;
#[cfg(feature = "checks")]
pub mod flaps;
#[cfg(feature = "checks")]
pub mod forge;
pub mod leftovers;
pub mod net;
#[cfg(feature = "checks")]
pub mod packets;
pub mod scenario;
pub mod server;
pub mod spread;
pub mod supervise;
pub mod test_lock;
#[cfg(feature = "checks")]
pub mod tracking;
pub mod traffic;
#[cfg(feature = "checks")]
pub mod tunnel;
pub mod wait;
pub mod world;

pub use scenario::scenario;
pub use world::World;
