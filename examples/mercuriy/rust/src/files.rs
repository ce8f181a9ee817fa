//! `GET /files/{name}`: reads a file of the data folder, with file calls that block.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use crate::error::ApiError;
use crate::places::Task;
use crate::service::Service;

/// The bytes that are read at a time.
const CHUNK: usize = 256 * 1024;

/// Reads a file, a chunk at a time, as fast as the client takes it.
pub async fn read(
    State(service): State<Arc<Service>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let bad_name = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "bad_name", message);
    let Path(name) = name.map_err(|error| bad_name(error.body_text()))?;
    if !is_allowed(&name) {
        let allowed = "use at most 128 letters of A-Z a-z 0-9 _ . -, the first no dot";
        return Err(bad_name(format!("`{name}` is no name of a file: {allowed}")));
    }
    let path = service.data.join("files").join(&name);
    let opened = service.places.run(Task::File("files.open"), move || open(&path)).await;
    let (file, length) = opened.map_err(|failure| ApiError::of(failure, "the file"))?.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            ApiError::not_found("no_such_file", format!("there is no file `{name}`"))
        } else {
            ApiError::internal(error)
        }
    })?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let chunks = stream::try_unfold((service, Arc::new(file), length), |(service, file, left)| async move {
        let same = Arc::clone(&file);
        let chunk = service.places.run(Task::File("files.read"), move || read_chunk(&same, left)).await;
        let chunk = chunk.map_err(io::Error::other)??;
        let read = chunk.len() as u64;
        let next = (service, file, left - read);
        Ok::<_, io::Error>((read > 0).then_some((Bytes::from(chunk), next)))
    });
    Ok((headers, Body::from_stream(chunks)).into_response())
}

fn is_allowed(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Opens a file, and returns its length. Links and folders are no files. Blocks.
fn open(path: &FilePath) -> io::Result<(File, u64)> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(no_follow.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
        if is_link { io::ErrorKind::NotFound.into() } else { error }
    })?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata.len())) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Reads the next bytes, at most `left`. Blocks.
fn read_chunk(mut file: &File, left: u64) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::new();
    file.by_ref().take(left.min(CHUNK as u64)).read_to_end(&mut chunk)?;
    if chunk.is_empty() && left > 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
    }
    Ok(chunk)
}
