//! Scenarios: real clients, the real daemon and real servers, in namespaces.

mod admin;
mod api;
mod apply;
mod bulk;
mod configuration;
mod decap;
mod detach;
mod drain;
mod failover;
mod failure;
mod flaps;
mod groups;
mod health;
mod interfaces;
mod modes;
mod next_hop;
mod not_ours;
mod refusals;
mod reload;
mod restart;
mod scheduling;
mod slow_start;
mod spread;
mod survives;
mod warm_up;
mod weight;
