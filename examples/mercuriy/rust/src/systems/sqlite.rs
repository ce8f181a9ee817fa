//! SQLite: its library blocks in the caller's thread. The stored functions are Rust's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection as Sqlite, ErrorCode};
use serde_json::Value;

use super::catalog::Function;
use super::connection::{Call, CallError, Canceller, Connection};

pub(super) struct SqliteConnection {
    sqlite: Sqlite,
}

impl SqliteConnection {
    pub(super) fn open() -> Result<Self, CallError> {
        let open = || {
            // The functions need no tables.
            let sqlite = Sqlite::open_in_memory()?;
            define_functions(&sqlite)?;
            Ok(sqlite)
        };
        let sqlite = open().map_err(|error: rusqlite::Error| CallError::Down(error.to_string()))?;
        Ok(Self { sqlite })
    }
}

impl Connection for SqliteConnection {
    fn call(&mut self, call: &Call) -> Result<Value, CallError> {
        let _running = (call.function == Function::Slow).then(Running::begin);
        let arguments = Value::from(call.arguments.clone()).to_string();
        let text: String = self
            .sqlite
            .prepare(statement(call.function))
            .and_then(|mut statement| statement.query_row([arguments], |row| row.get(0)))
            .map_err(call_error)?;
        serde_json::from_str(&text).map_err(|error| CallError::Function(error.to_string()))
    }

    fn canceller(&self) -> Result<Canceller, CallError> {
        let interrupt = self.sqlite.get_interrupt_handle();
        Ok(Box::new(move || interrupt.interrupt()))
    }

    fn is_lost(&mut self) -> bool {
        false
    }
}

/// Returns the statement that calls a function. Its parameter is a JSON array, as text.
const fn statement(function: Function) -> &'static str {
    match function {
        // SQLite looks for an interrupt between two rows, so the wait is many short ones.
        Function::Slow => {
            "WITH RECURSIVE waiting(ms) AS (
                SELECT 0.0 UNION ALL SELECT ms + mercuriy_nap(json_extract(?1, '$[0]') - ms) FROM waiting
                WHERE ms < json_extract(?1, '$[0]')
            )
            SELECT CAST(json_extract(?1, '$[0]') AS TEXT) FROM (SELECT count(*) FROM waiting)"
        }
        Function::Echo => "SELECT mercuriy_call('echo', ?1)",
        Function::Add => "SELECT mercuriy_call('add', ?1)",
        Function::Fail => "SELECT mercuriy_call('fail', ?1)",
        Function::Big => "SELECT mercuriy_call('big', ?1)",
        Function::Running => "SELECT mercuriy_call('running', ?1)",
    }
}

/// The number of calls of `slow` that run in this process.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

fn define_functions(sqlite: &Sqlite) -> rusqlite::Result<()> {
    sqlite.create_scalar_function("mercuriy_call", 2, FunctionFlags::SQLITE_UTF8, |context| {
        let (name, arguments): (String, String) = (context.get(0)?, context.get(1)?);
        answer(&name, &arguments).map_err(|problem| rusqlite::Error::UserFunctionError(problem.into()))
    })?;
    // Waits for a few milliseconds, at most for the given number. Returns how long that took.
    sqlite.create_scalar_function("mercuriy_nap", 1, FunctionFlags::SQLITE_UTF8, |context| {
        let since = Instant::now();
        std::thread::sleep(Duration::from_secs_f64(context.get::<f64>(0)?.clamp(0.0, 2.0) / 1000.0));
        Ok(since.elapsed().as_secs_f64() * 1000.0)
    })
}

fn answer(name: &str, arguments: &str) -> Result<String, String> {
    let arguments: Vec<Value> = serde_json::from_str(arguments).map_err(|error| error.to_string())?;
    match Function::named(name) {
        Some(Function::Running) => Ok(RUNNING.load(Ordering::SeqCst).to_string()),
        Some(function) => function.answer(&arguments).map(|result| result.to_string()),
        None => Err(format!("there is no function {name}")),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn call_error(error: rusqlite::Error) -> CallError {
    match &error {
        rusqlite::Error::SqliteFailure(failure, _) if failure.code == ErrorCode::OperationInterrupted => {
            CallError::Cancelled
        }
        rusqlite::Error::SqliteFailure(_, Some(message)) => CallError::Function(message.clone()),
        other => CallError::Function(other.to_string()),
    }
}
