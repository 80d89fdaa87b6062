//! Scenarios: real clients, the real daemon and real servers, in namespaces.

mod bulk;
mod configuration;
mod decap;
mod detach;
mod failover;
mod failure;
mod health;
mod modes;
mod next_hop;
mod not_ours;
mod restart;
mod spread;
mod weight;
