//! Who may look.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{Peer, Request, Response};

/// Headers that a proxy adds. With one of them, the peer is not the one who looks.
const OF_PROXIES: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

/// Returns the answer for one who may not look. `token` is the one that the program asks for.
///
/// Without a token, only this machine may look: the peer's address and the name that it has asked for are both loopback. So
/// a page of another site, whose name an attacker points here, reads nothing.
pub(super) fn refusal(request: &Request<'_>, token: Option<&str>) -> Option<Response> {
    match (request.peer, token) {
        (Peer::Socket, _) => None,
        (_, Some(token)) => {
            let given = given_token(request);
            let is_right = given.is_some_and(|given| is_equal(given.as_bytes(), token.as_bytes()));
            (!is_right).then(|| {
                let text = "give the token that the program was started with: `Authorization: Bearer TOKEN`, or \
                            `?token=TOKEN` in the address";
                Response::error(401, text).with("WWW-Authenticate", "Bearer")
            })
        }
        (Peer::Address(address), None) if is_loopback(address) && is_for_loopback(request) => None,
        _ => Some(Response::error(
            403,
            "without a token only this machine may look, and only by a loopback name such as localhost: open the view \
             there, or start it with a token",
        )),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
        }
    }
}

/// Returns whether the request was sent to a name of this machine, by no proxy.
fn is_for_loopback(request: &Request<'_>) -> bool {
    let is_direct = OF_PROXIES.iter().all(|name| request.header(name).is_none());
    let mut hosts = request.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    let (Some((_, host)), None) = (hosts.next(), hosts.next()) else { return false };
    is_direct && std::str::from_utf8(host).is_ok_and(is_loopback_name)
}

/// Returns whether a Host header, which may end with a port, names this machine.
fn is_loopback_name(host: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_v6 = address.parse::<Ipv6Addr>().is_ok_and(|address| is_loopback(address.into()));
        return is_v6 && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn given_token(request: &Request<'_>) -> Option<String> {
    let header = request.header("authorization").and_then(|value| std::str::from_utf8(value).ok());
    let bearer = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    bearer.or_else(|| request.parameter("token"))
}

/// Compares in a time that depends on the lengths alone.
fn is_equal(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |seen, (one, other)| seen | (one ^ other));
    given.len() == token.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(headers: &[(&str, &str)], query: &str, peer: Peer, token: Option<&str>) -> Option<u16> {
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let request = Request { method: "GET", path: "/", query, headers: &headers, peer };
        refusal(&request, token).map(|response| response.status)
    }

    const HERE: Peer = Peer::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn without_a_token_only_this_machine_may_look_and_by_its_own_name() {
        for host in ["localhost", "LOCALHOST:8811", "127.0.0.1:80", "127.9.9.9", "[::1]:1", "[::1]"] {
            assert_eq!(refused(&[("Host", host)], "", HERE, None), None, "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::1", "10.0.0.1"]
        {
            assert_eq!(refused(&[("Host", host)], "", HERE, None), Some(403), "{host}");
        }
        assert_eq!(refused(&[], "", HERE, None), Some(403), "no Host");
        let twice = [("Host", "localhost"), ("host", "localhost")];
        assert_eq!(refused(&twice, "", HERE, None), Some(403));
        let elsewhere = Peer::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));
        for peer in [elsewhere, Peer::Unknown] {
            assert_eq!(refused(&[("Host", "localhost")], "", peer, None), Some(403));
        }
        let through_a_proxy = [("Host", "localhost"), ("X-Forwarded-For", "10.0.0.7")];
        assert_eq!(refused(&through_a_proxy, "", HERE, None), Some(403));
    }

    #[test]
    fn with_a_token_only_those_who_have_it_may_look() {
        let host = ("Host", "example.org");
        for authorization in ["Bearer s3cret", "bearer  s3cret"] {
            let headers = [host, ("Authorization", authorization)];
            assert_eq!(refused(&headers, "", Peer::Unknown, Some("s3cret")), None);
        }
        assert_eq!(refused(&[host], "a=b&token=s3%63ret", HERE, Some("s3cret")), None);
        for authorization in ["Bearer s3cre", "Bearer s3crets", "Bearer", "Basic s3cret", "Bearer S3CRET", ""]
        {
            let headers = [("Host", "localhost"), ("Authorization", authorization)];
            assert_eq!(refused(&headers, "", HERE, Some("s3cret")), Some(401), "{authorization}");
        }
    }

    #[test]
    fn the_users_own_socket_needs_neither() {
        assert_eq!(refused(&[], "", Peer::Socket, None), None);
        assert_eq!(refused(&[], "", Peer::Socket, Some("s3cret")), None);
    }
}
