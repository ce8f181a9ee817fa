//! The connector: plain blocking `std::net`, as a vendor might ship it. It knows neither async code nor offloop.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::wire::{Message, Parameters};

/// One connection, for one call at a time.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

/// The reason why a call has no results.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke. The function may have run.
    #[error("the connection was lost: {0}")]
    Lost(#[source] io::Error),
    /// The other side does not follow the protocol.
    #[error("the protocol was broken: {0}")]
    Protocol(String),
    /// The function ran and failed. The connection can still be used.
    #[error("{key}: {message}")]
    Function {
        /// The kind of failure, for programs.
        key: String,
        /// The description of the failure, for people.
        message: String,
    },
}

impl CallError {
    /// Returns whether the connection is unusable, because unread bytes of this call may follow on it.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Function { .. })
    }
}

impl Client {
    /// Connects. Blocks for at most ten seconds.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Calls a function of the server by its name. Blocks until the server has answered.
    pub fn call(&mut self, function: &str, parameters: &Parameters) -> Result<Parameters, CallError> {
        let call = Message::Call { function: function.to_owned(), parameters: parameters.clone() };
        call.write(&self.stream)?;
        match Message::read(&self.stream)? {
            Message::Results(results) => Ok(results),
            Message::Failure { key, message } => Err(CallError::Function { key, message }),
            Message::Call { .. } => Err(CallError::Protocol("a call from the server".to_owned())),
        }
    }

    /// Returns another handle of the connection's socket. Shutting that down ends a call that waits for its answer.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }
}
