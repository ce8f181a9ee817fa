//! The connector: plain blocking `std::net`, as a vendor might ship it. Nothing in here knows of async or of offloop.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::wire::{Message, Parameters};

/// One connection, for one call at a time.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

/// Why a call has no results.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The connection broke. Whether the function ran is not known.
    #[error("the connection was lost: {0}")]
    Lost(#[source] io::Error),
    /// The other side speaks something else.
    #[error("the protocol was broken: {0}")]
    Protocol(String),
    /// The function ran and failed. The connection is as good as before.
    #[error("{key}: {message}")]
    Function {
        /// What kind of failure it is, for programs.
        key: String,
        /// The same for people.
        message: String,
    },
}

impl CallError {
    /// Whether the connection can't be used any more: nobody knows what comes on it next.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Function { .. })
    }
}

impl Client {
    /// Connects. Blocks, for ten seconds at most.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Calls a function of the server by its name. Blocks until it has answered.
    pub fn call(&mut self, function: &str, parameters: &Parameters) -> Result<Parameters, CallError> {
        let call = Message::Call { function: function.to_owned(), parameters: parameters.clone() };
        call.write(&self.stream)?;
        match Message::read(&self.stream)? {
            Message::Results(results) => Ok(results),
            Message::Failure { key, message } => Err(CallError::Function { key, message }),
            Message::Call { .. } => Err(CallError::Protocol("a call from the server".to_owned())),
        }
    }

    /// Another hold on the connection's socket. To shut it down there ends a call that waits here.
    pub fn socket(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }
}
