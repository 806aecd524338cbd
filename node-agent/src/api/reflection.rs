//! gRPC server reflection on the public socket, as in SPIRE's agent: the services and their messages.
//!
//! Callers are not attested for it, since the answer is the same for all; its streams count against their limits like
//! any other.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::service::Routes;
use tonic_reflection::server::Builder;

/// Adds the service, which describes these others.
pub(super) fn add(routes: Routes, services: &[&str]) -> Routes {
    let described = described(services);
    let builder = || {
        let all = Builder::configure().register_file_descriptor_set(described.clone());
        services
            .iter()
            .fold(all, |all, name| all.with_service_name(*name))
    };
    let (Ok(v1), Ok(alpha)) = (builder().build_v1(), builder().build_v1alpha()) else {
        // Our own descriptors, which a test reads too.
        tracing::error!("gRPC reflection is not served: the descriptors can't be read");
        return routes;
    };
    routes.add_service(v1).add_service(alpha)
}

/// The file descriptors of these services and of their imports.
fn described(services: &[&str]) -> FileDescriptorSet {
    let mut all = FileDescriptorSet::decode(countersign_proto::DESCRIPTOR_SET).unwrap_or_default();
    let named = |package: &str, service: &str| match package {
        "" => services.contains(&service),
        package => services.contains(&format!("{package}.{service}").as_str()),
    };
    let mut wanted: BTreeSet<String> = all
        .file
        .iter()
        .filter(|file| file.service.iter().any(|s| named(file.package(), s.name())))
        .map(|file| file.name().to_owned())
        .collect();
    loop {
        let below: Vec<_> = all
            .file
            .iter()
            .filter(|file| wanted.contains(file.name()))
            .flat_map(|file| file.dependency.clone())
            .filter(|name| !wanted.contains(name))
            .collect();
        if below.is_empty() {
            break;
        }
        wanted.extend(below);
    }
    all.file.retain(|file| wanted.contains(file.name()));
    all
}
