//! Sources that no client has: VIPs, and addresses that nobody sends from.
