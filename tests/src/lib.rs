//! Namespace harness for SLB.
