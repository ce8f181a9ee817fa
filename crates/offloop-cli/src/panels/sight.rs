//! A service as the panels see it.

use offloop::observe::document::Service;

use crate::history::History;

/// A service, and what is known of its past.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) service: &'a Service,
    pub(crate) history: &'a History,
    pub(crate) symbols: &'a Symbols,
}

/// The characters of plots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbols {
    pub(crate) levels: [char; 9],
    pub(crate) shades: [char; 5],
    pub(crate) cut: char,
    pub(crate) is_ascii: bool,
}

impl Symbols {
    pub(crate) const UNICODE: Self = Self {
        levels: [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        shades: [' ', '░', '▒', '▓', '█'],
        cut: '…',
        is_ascii: false,
    };
    pub(crate) const ASCII: Self = Self {
        levels: [' ', '.', ':', '-', '=', '+', '*', '#', '@'],
        shades: [' ', '.', ':', '*', '#'],
        cut: '~',
        is_ascii: true,
    };
}
