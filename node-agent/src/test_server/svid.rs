//! Signing: BatchNewX509SVID and NewJWTSVID.

use countersign_identity::SpiffeId;
use countersign_identity::csr::Csr;
use countersign_identity::jwt::JwtTemplate;
use countersign_proto::spire::api::server::svid::v1::{
    self, batch_new_x509svid_response, svid_server,
};
use countersign_proto::spire::api::types;
use tonic::{Code, Request, Response, Status};

use super::{Shared, not_here};

impl Shared {
    fn sign_one(&self, params: &v1::NewX509svidParams) -> batch_new_x509svid_response::Result {
        let now = self.now();
        let state = self.state();
        let entry = state
            .entries
            .get(&params.entry_id)
            .filter(|e| !state.refused.contains(&e.id));
        let Some(entry) = entry else {
            let message = "entry not found or not authorized".to_owned();
            let status = Some(types::Status {
                code: Code::NotFound as i32,
                message,
            });
            return batch_new_x509svid_response::Result { status, svid: None };
        };
        let id: SpiffeId = entry.spiffe_id.clone().unwrap().try_into().unwrap();
        let csr = Csr::parse(&params.csr).unwrap();
        csr.verify_signature().unwrap();
        let chain = state.ca.sign(&id, csr.public_key(), state.svid_ttl, now);
        let svid = types::X509svid {
            cert_chain: chain.iter().map(|c| c.to_vec().into()).collect(),
            id: Some((&id).into()),
            expires_at: now.after(state.svid_ttl).as_i64(),
            hint: String::new(),
        };
        let status = Some(types::Status {
            code: 0,
            message: "OK".to_owned(),
        });
        batch_new_x509svid_response::Result {
            status,
            svid: Some(svid),
        }
    }
}

#[tonic::async_trait]
impl svid_server::Svid for Shared {
    async fn batch_new_x509svid(
        &self,
        request: Request<v1::BatchNewX509svidRequest>,
    ) -> Result<Response<v1::BatchNewX509svidResponse>, Status> {
        self.authorize(&request)?;
        self.called("BatchNewX509SVID")?;
        let count = request.get_ref().params.len();
        self.state().signed.push(count);
        let results = request
            .get_ref()
            .params
            .iter()
            .map(|params| self.sign_one(params))
            .collect();
        Ok(Response::new(v1::BatchNewX509svidResponse { results }))
    }

    async fn mint_x509svid(
        &self,
        _: Request<v1::MintX509svidRequest>,
    ) -> Result<Response<v1::MintX509svidResponse>, Status> {
        not_here()
    }

    async fn mint_jwtsvid(
        &self,
        _: Request<v1::MintJwtsvidRequest>,
    ) -> Result<Response<v1::MintJwtsvidResponse>, Status> {
        not_here()
    }

    async fn mint_witsvid(
        &self,
        _: Request<v1::MintWitsvidRequest>,
    ) -> Result<Response<v1::MintWitsvidResponse>, Status> {
        not_here()
    }

    async fn new_jwtsvid(
        &self,
        request: Request<v1::NewJwtsvidRequest>,
    ) -> Result<Response<v1::NewJwtsvidResponse>, Status> {
        self.authorize(&request)?;
        self.called("NewJWTSVID")?;
        let now = self.now();
        let v1::NewJwtsvidRequest { entry_id, audience } = request.into_inner();
        let state = self.state();
        let entry = state
            .entries
            .get(&entry_id)
            .ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        let id: SpiffeId = entry.spiffe_id.clone().unwrap().try_into().unwrap();
        let template = JwtTemplate {
            id: &id,
            audience: &audience,
            ttl: state.jwt_ttl,
            issuer: None,
            with_id: false,
        };
        let issued = state.ca.jwt().issue(&template, now).unwrap();
        Ok(Response::new(v1::NewJwtsvidResponse {
            svid: Some(types::Jwtsvid {
                token: issued.token,
                id: Some((&id).into()),
                expires_at: issued.expires_at.as_i64(),
                issued_at: issued.issued_at.as_i64(),
                hint: String::new(),
            }),
        }))
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<v1::BatchNewWitsvidRequest>,
    ) -> Result<Response<v1::BatchNewWitsvidResponse>, Status> {
        not_here()
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<v1::NewDownstreamX509caRequest>,
    ) -> Result<Response<v1::NewDownstreamX509caResponse>, Status> {
        not_here()
    }
}
