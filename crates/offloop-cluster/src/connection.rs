//! The settings that submitters, workers and operators have alike.

use std::fmt;
use std::path::PathBuf;

use crate::protocol::Settings;
use crate::security::{Seals, SigningKey, Trust};

/// The proof by which a party logs in to the server.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// None, or what the URL says.
    #[default]
    None,
    /// A name and a password.
    User {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
    /// The seed of an nkey.
    Nkey(String),
    /// The contents of a credentials file: a JWT and its seed.
    Creds(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::User { .. } => "User",
            Self::Token(_) => "Token",
            Self::Nkey(_) => "Nkey",
            Self::Creds(_) => "Creds",
        })
    }
}

/// The way to a cluster, and the keys of the party that takes it: a submitter, a worker or an operator. A URL alone is one,
/// with defaults for all else.
#[derive(Clone)]
#[must_use = "a connection does nothing until a party is built with it"]
pub struct Connection {
    /// One or several URLs, separated by commas.
    pub(crate) url: String,
    pub(crate) namespace: String,
    /// The name that the server shows for this connection. Set by the party.
    pub(crate) name: String,
    pub(crate) credentials: Credentials,
    pub(crate) tls: bool,
    pub(crate) roots: Vec<PathBuf>,
    /// The files of the client's certificate and of its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    pub(crate) settings: Settings,
    pub(crate) replicas: u32,
    pub(crate) storage: Option<u64>,
    pub(crate) seals: Seals,
}

impl Connection {
    /// Returns the way to the cluster at this URL, such as `nats://host:4222`, or several URLs of one cluster, separated by
    /// commas.
    pub fn to(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            namespace: "default".to_owned(),
            name: "offloop".to_owned(),
            credentials: Credentials::None,
            tls: false,
            roots: Vec::new(),
            certificate: None,
            settings: Settings::default(),
            replicas: 1,
            storage: None,
            seals: Seals::default(),
        }
    }

    /// Sets the namespace: jobs, queues and workers of one environment. All its parties have the same one. Default:
    /// `default`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the proof by which the party logs in to the server. Default: what the URL says, or none.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Refuses a connection without TLS.
    pub fn require_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Trusts the certificates in this file too, beside those that the system trusts.
    pub fn root_certificates(mut self, path: impl Into<PathBuf>) -> Self {
        self.roots.push(path.into());
        self
    }

    /// Shows this certificate to the server. Both are files in PEM format.
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the times that all parties of the namespace agree on. The server delivers jobs again after the lease of the
    /// worker that has come last.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the number of servers that keep each stream, if this party is the first to come to the namespace. Default: 1.
    /// With three, one of them may be lost.
    pub fn replicas(mut self, servers: u32) -> Self {
        self.replicas = servers.max(1);
        self
    }

    /// Sets the number of bytes that the namespace may store on each server, if this party is the first to come to it. Jobs
    /// that wait, large arguments, large results and dead jobs each get a share of it. When a share is used up, the store
    /// is full for these, and there is still room for the claims and the ends of jobs that were accepted.
    ///
    /// Default: what the server grants to the account. If that has no limit, and one server keeps the streams: about what
    /// it can still reserve, half of it or more. If this party may not find that out, or little is left to reserve: no
    /// shares.
    pub fn storage(mut self, bytes: u64) -> Self {
        self.storage = Some(bytes);
        self
    }

    /// Sets whom this party believes: a worker, the submitters whose jobs it runs; a submitter, the workers whose ends of
    /// jobs count. Jobs and ends of others lead to [`NotTrusted`](offloop::ErrorKind::NotTrusted). Default: [`Trust::none`].
    /// With that, jobs of plain data run for every submitter, and all ends count.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.seals.trust = trust;
        self
    }

    /// Sets the key that signs what this party sends, for those that trust some keys only: a submitter's jobs, a worker's
    /// ends of jobs, the jobs that an operator puts into their queues again. Default: none.
    pub fn key(mut self, key: SigningKey) -> Self {
        self.seals.key = Some(key);
        self
    }

    /// Returns the URLs without what they have to log in with.
    pub(crate) fn public_url(&self) -> String {
        let urls = self.url.split(',').map(|url| url.trim().rsplit('@').next().unwrap_or(url));
        urls.collect::<Vec<_>>().join(",")
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("url", &self.public_url())
            .field("namespace", &self.namespace)
            .field("credentials", &self.credentials)
            .field("tls", &self.tls)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl From<&str> for Connection {
    fn from(url: &str) -> Self {
        Self::to(url)
    }
}

impl From<&String> for Connection {
    fn from(url: &String) -> Self {
        Self::to(url)
    }
}

impl From<String> for Connection {
    fn from(url: String) -> Self {
        Self::to(url)
    }
}
