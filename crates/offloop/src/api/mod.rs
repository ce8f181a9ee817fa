//! What users call beside the pools: the default executor's lanes, adapters, and what a running job asks.

pub mod adapters;
pub mod embed;
pub mod job;
pub(crate) mod lanes;
mod unwind;
