//! Components, plugged together.

use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions};

/// What `wac plug guest.wasm --plug provider.wasm` does, and how it refuses.
pub(crate) fn plug(guest: &[u8], provider: &[u8]) -> Result<Vec<u8>, String> {
    let mut graph = CompositionGraph::new();
    let [provider, guest] = [("provider", provider), ("guest", guest)].map(|(name, component)| {
        let package = Package::from_bytes(name, None, component.to_vec(), graph.types_mut()).unwrap();
        graph.register_package(package).unwrap()
    });
    wac_graph::plug(&mut graph, vec![provider], guest).map_err(|error| error.to_string())?;
    Ok(graph.encode(EncodeOptions::default()).unwrap())
}
