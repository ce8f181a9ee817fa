//! The page.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use crate::support::{PATIENCE, Program, Runtime, text, wait_until};

/// A running `offloop top --web`.
struct Web {
    _command: Program,
    authority: String,
    token: String,
}

impl Web {
    fn start(runtime: &Runtime, arguments: &[&str]) -> Self {
        let arguments = [&["top", "--web"], arguments].concat();
        let mut child = runtime.offloop(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap();
        let (authority, token) = address.split_once("/?token=").unwrap();
        Self { _command: Program(child), authority: authority.to_owned(), token: token.to_owned() }
    }

    /// Sends a request, and returns the response, which may be without an end.
    fn send(&self, method: &str, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.authority).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = &self.authority;
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")
            .unwrap();
        stream
    }

    fn get(&self, path: &str) -> String {
        let mut response = Vec::new();
        self.send("GET", path, "").read_to_end(&mut response).unwrap();
        text(&response)
    }

    fn with_token(&self, path: &str) -> String {
        self.get(&format!("{path}?token={}", self.token))
    }
}

#[test]
fn the_page_and_its_routes_are_served_to_those_who_have_the_token() {
    let runtime = Runtime::new();
    let program = runtime.program("reports");
    let web = Web::start(&runtime, &[]);
    assert!(web.get("/").starts_with("HTTP/1.1 401"));
    assert!(web.get("/reports/service?token=wrong").starts_with("HTTP/1.1 401"));
    let front = web.with_token("/");
    assert!(
        front.starts_with("HTTP/1.1 302") && front.contains(&format!("/reports/?token={}", web.token)),
        "{front}"
    );
    let page = web.with_token("/reports/");
    assert!(
        page.starts_with("HTTP/1.1 200")
            && page.contains("text/html")
            && page.contains("content-security-policy")
    );
    assert!(web.with_token("/reports/service").contains("long_job"));
    assert!(web.with_token("/other/").starts_with("HTTP/1.1 404"));

    let path = format!("/reports/events?every=0.2&token={}", web.token);
    let events = BufReader::new(web.send("GET", &path, ""));
    let data: Vec<_> =
        events.lines().map_while(Result::ok).filter(|line| line.starts_with("data: ")).take(2).collect();
    assert_eq!(data.len(), 2);
    assert!(data[1].contains(&format!("\"pid\":{}", program.pid())));
}

#[test]
fn a_job_is_cancelled_only_by_the_page_itself() {
    let runtime = Runtime::new();
    let program = runtime.program("reports");
    let web = Web::start(&runtime, &["reports"]);
    let service = web.with_token("/reports/service");
    let document: serde_json::Value =
        serde_json::from_str(service.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let job = document["processes"][0]["pools"][0]["jobs"][0]["id"].as_u64().unwrap();
    let path = format!("/reports/jobs/{}/{job}/cancel?token={}", program.pid(), web.token);
    let post = |headers| {
        let mut response = Vec::new();
        web.send("POST", &path, headers).read_to_end(&mut response).unwrap();
        text(&response)
    };
    assert!(post("Content-Length: 0\r\n").starts_with("HTTP/1.1 403"));
    let cancelled = post("Content-Length: 0\r\nX-Offloop: 1\r\n");
    assert!(cancelled.starts_with("HTTP/1.1 202"), "{cancelled}");
}

#[test]
fn a_page_of_another_site_reads_nothing() {
    let runtime = Runtime::new();
    let _program = runtime.program("reports");
    let web = Web::start(&runtime, &[]);
    let mut stream = TcpStream::connect(&web.authority).unwrap();
    let token = &web.token;
    write!(stream, "GET /?token={token} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
}

#[test]
fn several_programs_have_a_front_page_and_one_that_is_restarted_is_found_again() {
    let runtime = Runtime::new();
    let mut killed = runtime.program("reports");
    let _other = runtime.program("bills & <b>");
    let web = Web::start(&runtime, &[]);
    let front = web.with_token("/");
    assert!(front.contains("href=\"reports/?token=") && front.contains("bills &amp; &lt;b&gt;"), "{front}");
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    let lost = web.with_token("/reports/service");
    assert!(lost.starts_with("HTTP/1.1 502") && lost.contains("nobody listens"), "{lost}");
    let again = runtime.program("reports");
    let expected = format!("\"pid\":{}", again.pid());
    wait_until(|| web.with_token("/reports/service").contains(&expected), "the restarted program");
}
