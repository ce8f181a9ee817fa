//! Requests and responses, whatever carries them.

use std::net::IpAddr;

use serde::Serialize;

use super::document::to_json;

/// The origin of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// The private socket of this user. Nothing more is asked for.
    Socket,
    /// This address.
    Address(IpAddr),
    /// It is not known. Only a token opens the view then.
    Unknown,
}

/// A request, without its body, of which no route needs anything.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::exhaustive_structs, reason = "those who have a server make it")]
pub struct Request<'a> {
    /// The method, in upper case.
    pub method: &'a str,
    /// The path below the place where the view is mounted, with or without a slash in front.
    pub path: &'a str,
    /// The part behind the question mark, as it came.
    pub query: &'a str,
    /// The headers. Upper and lower case do not matter.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The sender.
    pub peer: Peer,
}

impl Request<'_> {
    /// Returns the first header of this name.
    pub(super) fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }

    /// Returns a parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(other, _)| *other == name).map(|(_, value)| decode(value))
    }
}

/// Decodes `%41` and `+`.
fn decode(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        let digits =
            after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = if byte.is_some() { &after[2..] } else { after };
        decoded.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A response. Those who have a server add `Content-Length`.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, `Content-Type` among them.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    pub(super) fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let response = Self { status, headers: Vec::new(), body: body.into() };
        response.with("Content-Type", content_type).private()
    }

    pub(super) fn json(status: u16, document: &impl Serialize) -> Self {
        Self::new(status, "application/json", to_json(document))
    }

    /// Makes an error. The text says what to do.
    pub(super) fn error(status: u16, text: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": text }))
    }

    /// Makes the response of another process, which has sent JSON.
    #[cfg(target_os = "linux")]
    pub(super) fn passed_on(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Nobody on the way may keep it, and no other page may use it.
    fn private(self) -> Self {
        self.with("Cache-Control", "no-store")
            .with("X-Content-Type-Options", "nosniff")
            .with("Referrer-Policy", "no-referrer")
            .with("Cross-Origin-Resource-Policy", "same-origin")
    }
}

/// A request about a job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Stack,
    Cancel,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let request = Request {
            method: "GET",
            path: "",
            query: "every=2&token=a%2Bb+c%zz%4",
            headers: &[],
            peer: Peer::Socket,
        };
        assert_eq!(request.parameter("token").as_deref(), Some("a+b c%zz%4"));
        assert_eq!(request.parameter("toke"), None);
    }
}
