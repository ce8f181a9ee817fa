//! The call in a process of procspawn: each process keeps one connection to each address.

use std::cell::RefCell;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::catalog::Function;
use super::connection::{Address, BoxedConnection, Call, CallError};
use crate::logs;

/// What travels to the process. JSON travels as text, since procspawn's format does not describe itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    address: Address,
    function: Function,
    arguments: String,
    message: Option<String>,
    request: String,
}

/// The result as JSON, and the process that has called.
pub(super) type Outcome = Result<(String, u32), CallError>;

impl Order {
    pub(super) fn new(address: &Address, call: &Call) -> Self {
        Self {
            address: address.clone(),
            function: call.function,
            arguments: Value::from(call.arguments.clone()).to_string(),
            message: call.message.clone(),
            request: logs::current_request(),
        }
    }
}

thread_local! {
    static CONNECTIONS: RefCell<HashMap<String, BoxedConnection>> = RefCell::default();
}

/// Calls the function, in the process of procspawn. Blocks.
pub(super) fn perform(order: Order) -> Outcome {
    let _span = logs::enter_in_worker(&order.request);
    let arguments = serde_json::from_str(&order.arguments)
        .map_err(|error| CallError::Lost(format!("the arguments did not arrive: {error}")))?;
    let call = Call { function: order.function, arguments, message: order.message };
    CONNECTIONS.with_borrow_mut(|connections| {
        let key = format!("{:?}", order.address);
        let idle = connections.remove(&key);
        let usable = idle.and_then(|mut connection| (!connection.is_lost()).then_some(connection));
        let mut connection = usable.map_or_else(|| order.address.connect(), Ok)?;
        let result = connection.call(&call);
        if matches!(result, Ok(_) | Err(CallError::Function(_))) {
            connections.insert(key, connection);
        }
        result.map(|value| (value.to_string(), std::process::id()))
    })
}
