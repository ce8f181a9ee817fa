//! mercuriy: a messenger between an async front and systems that only know how to block.
//!
//! An example of a whole service: axum on tokio, with one event loop, so that what blocks the loop shows. The place of the
//! blocking work is a [`mode::Mode`], which can be switched while the service runs.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`service`] | what the handlers share; start and end |
//! | [`routes`], [`request`] | the routes, and what is done for each request |
//! | [`places`], [`processes`] | the places that blocking work can go to |
//! | [`documents`], [`walk`] | `POST /documents`: the walk of a JSON document, in each place |
//! | [`functions`], [`systems`] | `POST /functions`: the connectors, and the same call in each place |
//! | [`rfc_server`] | the embedded server of the RFC-shaped protocol |
//! | [`files`], [`audit`] | `GET /files` and the audit log: file calls that block |
//! | [`messages`] | `POST /messages`: accepted on the disk, delivered at least once |
//! | [`status`], [`heartbeat`], [`metrics`], [`logs`], [`traces`] | what an operator looks at |
//! | [`body`], [`headers`], [`error`], [`failure`] | what bad input gets |

pub mod audit;
pub mod body;
pub mod documents;
pub mod error;
pub mod failure;
pub mod files;
pub mod functions;
pub mod headers;
pub mod heartbeat;
pub mod logs;
pub mod messages;
pub mod metrics;
pub mod mode;
pub mod options;
pub mod places;
pub mod processes;
pub mod request;
pub mod rfc_server;
pub mod routes;
pub mod service;
pub mod status;
pub mod systems;
pub mod traces;
pub mod walk;
