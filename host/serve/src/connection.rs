//! One connection, from its first byte to its last.

use crate::protocol::{self, Service};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The user at the other end of a Unix socket.
pub(crate) type User = Option<u32>;

pub(crate) async fn serve<S>(stream: S, user: User, service: Arc<Service>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limits = &service.shared.limits;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.request_timeout)
        .max_buf_size(limits.header_bytes.max(8_192));
    let answer = service_fn(|request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(protocol::answer(&request.into_parts().0, user, &service).await) }
    });
    // A client that breaks off is its own business.
    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
}
