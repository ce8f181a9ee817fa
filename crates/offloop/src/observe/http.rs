//! HTTP/1.1, as far as it is needed: heads of requests and of responses.

use std::fmt::Write as _;
use std::str;

/// The longest head of a message, in bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// The most headers of a message.
const MAX_HEADERS: usize = 64;

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) method: String,
    /// With the slash in front.
    pub(super) path: String,
    /// Without the question mark.
    pub(super) query: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// The length of the body.
    pub(super) body: usize,
}

/// A fault of a message: the status to answer, and a sentence that says what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) u16, pub(super) &'static str);

/// Reads the head of a request at the front of what has come. Returns it with its length, or `None` if it is not whole.
pub(super) fn request(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Malformed(
                431,
                "the head of the request is too long: send fewer and shorter headers",
            ));
        }
        Err(_) => return Err(Malformed(400, "this is no request of HTTP/1.1: send one")),
    };
    let (Some(method), Some(target)) = (request.method, request.path) else { return Ok(None) };
    if !target.starts_with('/') {
        return Err(Malformed(400, "ask for a path that begins with a slash"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let has = |name: &'static str| {
        request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    if has("transfer-encoding").next().is_some() {
        return Err(Malformed(411, "no route needs a body: send none, or its length"));
    }
    let mut lengths = has("content-length").map(|header| content_length(header.value));
    let body = match (lengths.next(), lengths.next()) {
        (None, _) => 0,
        (Some(Some(length)), None) => length,
        _ => return Err(Malformed(400, "send one Content-Length, a number of bytes")),
    };
    let headers = request.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec()));
    let head = RequestHead {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.collect(),
        body,
    };
    Ok(Some((head, length)))
}

fn content_length(value: &[u8]) -> Option<usize> {
    // `parse` would take a plus sign.
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Reads a whole response, which ends where the connection has ended. Returns its status and its body.
pub(super) fn response(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes).ok()? else { return None };
    let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body = content_length(header?.value)?;
    Some((response.code?, bytes.get(length..length.checked_add(body)?)?))
}

/// Returns the head of a response, whose connection ends with it.
pub(super) fn head(status: u16, headers: &[(&'static str, String)], body: Option<usize>) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Error",
    };
    let mut head = format!("HTTP/1.1 {status} {reason}\r\nConnection: close\r\n");
    // Writing to a string does not fail.
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if let Some(length) = body {
        let _ = write!(head, "Content-Length: {length}\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(text: &str) -> Result<bool, u16> {
        request(text.as_bytes()).map(|found| found.is_some()).map_err(|Malformed(status, _)| status)
    }

    #[test]
    fn a_request_is_taken_apart() {
        let text = "POST /jobs/1/2/cancel?token=a HTTP/1.1\r\nHost: x\r\nX-Offloop: 1\r\nContent-Length: 3\r\n\r\nabc";
        let (head, length) = request(text.as_bytes()).unwrap().unwrap();
        assert_eq!(&text[length..], "abc");
        assert_eq!((head.method.as_str(), head.path.as_str()), ("POST", "/jobs/1/2/cancel"));
        assert_eq!((head.query.as_str(), head.body), ("token=a", 3));
        assert_eq!(head.headers[1], ("X-Offloop".to_owned(), b"1".to_vec()));
        for end in 0..length {
            assert_eq!(request(&text.as_bytes()[..end]), Ok(None), "{end} bytes");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_status() {
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), Ok(true));
        assert_eq!(status("\u{16}\u{3}\u{1} hello"), Err(400));
        assert_eq!(status("GET http://x/ HTTP/1.1\r\n\r\n"), Err(400));
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), Err(400));
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"), Err(400));
        assert_eq!(status("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(411));
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65))), Err(431));
        assert_eq!(status(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD))), Err(431));
    }

    /// Returns the inputs that the fuzzer begins with, and those that it has found.
    fn corpus() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/view");
        let files = std::fs::read_dir(folder).into_iter().flatten();
        let mut inputs: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        inputs.push(b"GET /events?every=1&token=%61 HTTP/1.1\r\nHost: [::1]:8\r\n\r\n".to_vec());
        inputs
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(
            mut bytes in prop::sample::select(corpus()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..12),
        ) {
            crate::observe::fuzz(&bytes);
            for (at, byte, is_new) in changes {
                let at = at.index(bytes.len());
                if is_new { bytes.insert(at, byte) } else { bytes[at] = byte }
            }
            crate::observe::fuzz(&bytes);
        }
    }

    #[test]
    fn a_response_is_whole_only_with_all_of_its_body() {
        let text = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(response(text), Some((404, &b"{}"[..])));
        for end in 0..text.len() {
            assert_eq!(response(&text[..end]), None, "{end} bytes");
        }
    }
}
