//! The RFC-shaped protocol, by the connector of `examples/blocking-protocol`.

use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};

use offloop_example_blocking_protocol as rfc;
use serde_json::Value;

use super::connection::{Call, CallError, Canceller, Connection, has_hung_up};

/// The name of the result.
pub(crate) const RESULT: &str = "RESULT";

/// The name of the parameter that holds a message's id.
pub(crate) const MESSAGE: &str = "MESSAGE";

pub(super) struct RfcConnection {
    client: rfc::Client,
}

impl RfcConnection {
    pub(super) fn open(address: &str) -> Result<Self, CallError> {
        let down = |error: io::Error| CallError::Down(error.to_string());
        let mut addresses = address.to_socket_addrs().map_err(down)?;
        let address = addresses.next().ok_or_else(|| CallError::Down(format!("{address} has no address")))?;
        Ok(Self { client: rfc::Client::connect(address).map_err(down)? })
    }

    fn socket(&self) -> Result<TcpStream, CallError> {
        self.client.socket().map_err(|error| CallError::Lost(error.to_string()))
    }
}

impl Connection for RfcConnection {
    fn call(&mut self, call: &Call) -> Result<Value, CallError> {
        let parameters = parameters(call);
        let function = call.function.name().to_uppercase();
        let results = self.client.call(&function, &parameters).map_err(|error| match error {
            rfc::CallError::Function { message, .. } => CallError::Function(message),
            other => CallError::Lost(other.to_string()),
        })?;
        let result = results.get(RESULT).and_then(|text| serde_json::from_str(text).ok());
        result.ok_or_else(|| CallError::Lost("the server sent no result".to_owned()))
    }

    /// The protocol has no message that cancels a call. The server notices that the connection is closed.
    fn canceller(&self) -> Result<Canceller, CallError> {
        let socket = self.socket()?;
        Ok(Box::new(move || {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }))
    }

    fn is_lost(&mut self) -> bool {
        self.socket().map_or(true, |socket| has_hung_up(&socket).unwrap_or(true))
    }
}

/// Returns the parameters of a call. The protocol has texts alone, so each is a JSON text.
fn parameters(call: &Call) -> rfc::Parameters {
    let names = call.function.parameters().iter().map(|name| name.to_uppercase());
    let mut parameters: rfc::Parameters =
        names.zip(&call.arguments).map(|(name, value)| (name, value.to_string())).collect();
    if let Some(message) = &call.message {
        parameters.insert(MESSAGE.to_owned(), message.clone());
    }
    parameters
}
