//! A tonic service that answers gRPC alone, and only behind the inbound layer.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use countersign_mesh::Carrier;
use http::{Request, Response, StatusCode};
use tonic::server::NamedService;
use tower::Service;

use super::fields;
use super::peer::Permitted;
use crate::error::BoxError;
use crate::mesh::Mesh;

impl Mesh {
    /// Wraps a tonic service: a request with a content type other than gRPC's is answered with 415, so that its path
    /// has one meaning, and one that did not come through [`Mesh::serve`] or [`Mesh::inbound_layer`] with an error.
    ///
    /// # Examples
    /// ```
    /// # use countersign_proto::grpc::health::v1::health_server::{Health, HealthServer};
    /// # async fn example(mesh: countersign::Mesh, healthy: impl Health) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = tokio::net::TcpListener::bind("0.0.0.0:8443").await?;
    /// mesh.serve(listener, mesh.grpc(HealthServer::new(healthy))).await?;
    /// # Ok(())
    /// # }
    /// ```
    /// Several services: `Routes::new(mesh.grpc(one)).add_service(mesh.grpc(two))`.
    pub fn grpc<S>(&self, service: S) -> GrpcOnly<S> {
        GrpcOnly { service }
    }
}

/// A tonic service that answers gRPC alone, and only with a permit: see [`Mesh::grpc`].
#[derive(Clone, Debug)]
pub struct GrpcOnly<S> {
    service: S,
}

impl<S: NamedService> NamedService for GrpcOnly<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<Request<B>> for GrpcOnly<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if fields::carrier(request.headers()) != Carrier::Grpc {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Box::pin(async { Ok(response) });
        }
        if request.extensions().get::<Permitted>().is_none() {
            tracing::error!(
                "A gRPC request reached its service without a permit: add Mesh::inbound_layer to the server"
            );
            let status =
                tonic::Status::internal("this service is not set up: its inbound layer is missing");
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let answer = self.service.call(request);
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    }
}
