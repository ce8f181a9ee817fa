//! The functions that each system has, and the arguments that they take.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A function that each system has. The published list is `functions.json`; the tests compare it with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Function {
    /// `echo(x)` returns `x`.
    Echo,
    /// `add(a, b)` returns the sum of two whole numbers.
    Add,
    /// `slow(ms)` waits for this many milliseconds, and returns them.
    Slow,
    /// `fail(text)` fails with the text.
    Fail,
    /// `big(n)` returns a text of `n` letters.
    Big,
    /// `running()` returns the number of calls of `slow` that run on the system.
    Running,
}

impl Function {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Echo, Self::Add, Self::Slow, Self::Fail, Self::Big, Self::Running];

    /// The largest summand of `add`, and the smallest one but for its sign.
    pub const MAX_SUMMAND: i64 = 1_000_000_000_000;
    /// The longest time that `slow` waits, in milliseconds.
    pub const MAX_WAIT: u64 = 60_000;
    /// The longest text of `fail`, in characters.
    pub const MAX_TEXT: usize = 1000;
    /// The most letters that `big` returns.
    pub const MAX_LETTERS: u64 = 500_000;

    /// Returns the function of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }

    /// Returns the function's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Add => "add",
            Self::Slow => "slow",
            Self::Fail => "fail",
            Self::Big => "big",
            Self::Running => "running",
        }
    }

    /// Returns the names of the parameters.
    pub const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Echo => &["x"],
            Self::Add => &["a", "b"],
            Self::Slow => &["ms"],
            Self::Fail => &["text"],
            Self::Big => &["n"],
            Self::Running => &[],
        }
    }

    /// Checks the arguments of a call. Returns what is wrong with them.
    pub fn check(self, arguments: &[Value]) -> Result<(), String> {
        let is_summand = |n: &Value| n.as_i64().is_some_and(|n| n.abs() <= Self::MAX_SUMMAND);
        let is_right = match (self, arguments) {
            (Self::Echo, [_]) | (Self::Running, []) => true,
            (Self::Add, [a, b]) => is_summand(a) && is_summand(b),
            (Self::Slow, [ms]) => ms.as_u64().is_some_and(|ms| ms <= Self::MAX_WAIT),
            (Self::Fail, [text]) => text.as_str().is_some_and(|text| text.chars().count() <= Self::MAX_TEXT),
            (Self::Big, [n]) => n.as_u64().is_some_and(|n| n <= Self::MAX_LETTERS),
            _ => false,
        };
        if is_right { Ok(()) } else { Err(format!("{} takes {}", self.name(), self.takes())) }
    }

    /// Returns the result of a function that neither waits nor counts, or the error that it fails with. For the systems whose
    /// functions are written in Rust.
    pub fn answer(self, arguments: &[Value]) -> Result<Value, String> {
        match (self, arguments) {
            (Self::Echo, [value]) => Ok(value.clone()),
            (Self::Add, [a, b]) => a
                .as_i64()
                .zip(b.as_i64())
                .and_then(|(a, b)| a.checked_add(b))
                .map(Value::from)
                .ok_or_else(|| "the summands are no whole numbers".to_owned()),
            (Self::Fail, [Value::String(text)]) => Err(text.clone()),
            (Self::Big, [n]) => {
                let letters = n.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
                Ok(json!("x".repeat(letters)))
            }
            _ => Err(format!("{} is not called in this way", self.name())),
        }
    }

    fn takes(self) -> String {
        match self {
            Self::Echo => "one argument, any JSON value".to_owned(),
            Self::Add => format!("two whole numbers from -{0} to {0}", Self::MAX_SUMMAND),
            Self::Slow => format!("one whole number of milliseconds from 0 to {}", Self::MAX_WAIT),
            Self::Fail => format!("one text of at most {} characters", Self::MAX_TEXT),
            Self::Big => format!("one whole number of letters from 0 to {}", Self::MAX_LETTERS),
            Self::Running => "no arguments".to_owned(),
        }
    }
}
