//! The command against real programs, and in a real terminal.
//!
//! The program that is watched is this test itself, started again: see `support`. Tests in a terminal need tmux, and are
//! run by `cargo xtask test --only terminal`.

mod command;
mod hostile;
mod support;
mod terminal;
mod web;
