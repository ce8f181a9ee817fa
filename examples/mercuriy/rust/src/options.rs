//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::mode::Mode;

/// A messenger between an async front and systems that only know how to block.
#[derive(Debug, Clone, Parser)]
#[command(name = "mercuriy", version)]
pub struct Options {
    /// The address to listen at.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// The port to listen at; 0 for a free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Where the blocking work goes. `POST /mode` changes it.
    #[arg(long, value_enum, default_value = "offloop")]
    pub on: Mode,
    /// The URL of the cluster for `--on cluster`. Default: the one of `OFFLOOP_CLUSTER_URL`; without it, one of the
    /// service's own.
    #[arg(long, value_name = "URL")]
    pub cluster: Option<String>,
    /// The data folder. Default: a temporary one, which is removed at the end.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A PostgreSQL. Default: the one of `OFFLOOP_POSTGRES_URL`; without it, SQLite stands in.
    #[arg(long, value_name = "DSN")]
    pub postgres: Option<String>,
    /// A Tarantool. Default: the one of `OFFLOOP_TARANTOOL_URL`; without it, the RFC-shaped protocol stands in.
    #[arg(long, value_name = "HOST:PORT")]
    pub tarantool: Option<String>,
    /// A server of the RFC-shaped protocol. Default: an embedded one.
    #[arg(long, value_name = "HOST:PORT")]
    pub rfc: Option<String>,
    /// The URL of a collector of OpenTelemetry, for traces. It takes the feature `otlp`.
    #[arg(long, value_name = "URL")]
    pub otlp: Option<String>,
    /// The time for which nothing of a body may come.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub body_timeout: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
