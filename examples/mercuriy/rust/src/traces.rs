//! Traces of OpenTelemetry, which go on in worker processes. With the feature `otlp`; without it, nothing here does anything.
//!
//! The spans are those of `tracing`: one for each request, one for each job of offloop, one for the work in a worker. The
//! service sends them in batches from a thread of their own. A worker may end at any time, so it sends each at once.

#[cfg(feature = "otlp")]
pub use self::otlp::finish;
#[cfg(feature = "otlp")]
pub(crate) use self::otlp::{carried, continue_from_bytes, continue_from_headers, layer};
#[cfg(not(feature = "otlp"))]
pub use self::without::finish;
#[cfg(not(feature = "otlp"))]
pub(crate) use self::without::{carried, continue_from_bytes, continue_from_headers};

/// The process that the spans are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The service.
    Service,
    /// A worker.
    Worker,
}

#[cfg(not(feature = "otlp"))]
mod without {
    use axum::http::HeaderMap;
    use tracing::Span;

    pub(crate) fn carried() -> Option<Vec<u8>> {
        None
    }

    pub(crate) fn continue_from_bytes(_: &Span, _: &[u8]) {}

    pub(crate) fn continue_from_headers(_: &Span, _: &HeaderMap) {}

    /// Sends what is left. Blocks.
    pub fn finish() {}
}

#[cfg(feature = "otlp")]
mod otlp {
    use std::error::Error;
    use std::io::{self, Read, Write};
    use std::net::TcpStream;
    use std::sync::OnceLock;
    use std::time::Duration;

    use axum::body::Bytes;
    use axum::http::{HeaderMap, Request, Response};
    use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_http::{HttpClient, HttpError};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
    use tracing::{Span, Subscriber};
    use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
    use tracing_subscriber::registry::LookupSpan;

    use super::Process;

    /// The time that sending a batch may take.
    const TIME_LIMIT: Duration = Duration::from_secs(5);

    static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

    /// Returns the layer that sends spans to the collector at `url`, such as `http://127.0.0.1:4318`.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(
        url: &str,
        process: Process,
    ) -> Result<OpenTelemetryLayer<S, SdkTracer>, Box<dyn Error>> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", url.trim_end_matches('/')))
            .with_timeout(TIME_LIMIT)
            .build()?;
        let resource = Resource::builder().with_service_name("mercuriy").build();
        let provider = SdkTracerProvider::builder().with_resource(resource);
        let provider = match process {
            Process::Service => provider.with_batch_exporter(exporter),
            Process::Worker => provider.with_simple_exporter(exporter),
        };
        let provider = PROVIDER.get_or_init(|| provider.build());
        Ok(tracing_opentelemetry::layer().with_tracer(provider.tracer("mercuriy")))
    }

    /// Sends what is left. Blocks.
    pub fn finish() {
        if let Some(provider) = PROVIDER.get()
            && let Err(error) = provider.shutdown_with_timeout(TIME_LIMIT)
        {
            eprintln!("some traces were not sent: {error}");
        }
    }

    /// Returns the context of the current span, for a job to carry it along.
    pub(crate) fn carried() -> Option<Vec<u8>> {
        PROVIDER.get()?;
        let mut carrier = Carrier(HeaderMap::new());
        TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
        carrier.0.get(TRACEPARENT).map(|value| value.as_bytes().to_vec())
    }

    /// Makes `span` a part of the trace that a job carries.
    pub(crate) fn continue_from_bytes(span: &Span, carried: &[u8]) {
        if let Ok(value) = carried.try_into() {
            continue_from_headers(span, &HeaderMap::from_iter([(TRACEPARENT, value)]));
        }
    }

    /// Makes `span` a part of the trace that a request belongs to, if it names one.
    pub(crate) fn continue_from_headers(span: &Span, headers: &HeaderMap) {
        if headers.contains_key(TRACEPARENT) {
            let context = TraceContextPropagator::new().extract(&Headers(headers));
            // An error means that there are no traces.
            let _ = span.set_parent(context);
        }
    }

    const TRACEPARENT: axum::http::HeaderName = axum::http::HeaderName::from_static("traceparent");

    struct Headers<'a>(&'a HeaderMap);

    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(axum::http::HeaderName::as_str).collect()
        }
    }

    struct Carrier(HeaderMap);

    impl Injector for Carrier {
        fn set(&mut self, key: &str, value: String) {
            if let (Ok(key), Ok(value)) = (axum::http::HeaderName::try_from(key), value.try_into()) {
                self.0.insert(key, value);
            }
        }
    }

    /// Sends a batch by the standard library alone. It blocks: the exporter calls it on a thread of its own, or in a worker.
    #[derive(Debug)]
    struct Client;

    #[async_trait::async_trait]
    impl HttpClient for Client {
        async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
            Ok(post(&request)?)
        }
    }

    fn post(request: &Request<Bytes>) -> io::Result<Response<Bytes>> {
        let uri = request.uri();
        let host = uri.host().ok_or_else(|| io::Error::other("the address has no host"))?;
        let mut stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))?;
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        stream.set_write_timeout(Some(TIME_LIMIT))?;
        let mut message = Vec::new();
        write!(message, "POST {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n", uri.path())?;
        for (name, value) in request.headers() {
            write!(message, "{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()))?;
        }
        write!(message, "Content-Length: {}\r\n\r\n", request.body().len())?;
        message.extend_from_slice(request.body());
        stream.write_all(&message)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let status = answer.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        // What the collector says about a batch that it takes in part is left out.
        Response::builder().status(status).body(Bytes::new()).map_err(io::Error::other)
    }
}
