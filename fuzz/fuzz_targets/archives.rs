//! Uploads: whatever comes is told, unpacked within limits or refused, and nothing stays. What is made of one can be taken as one.
#![no_main]

use std::sync::OnceLock;

use ews_core::spec::source::Source;
use ews_core::spec::source::ArtifactSource;
use ews_core::ServiceSpec;
use ews_deploy::source::{Catalogue, ProcessRequest, SourceRequest, Sources, SourcesConfig};
use futures_util::StreamExt as _;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

fn stage() -> &'static (Runtime, Sources) {
    static STAGE: OnceLock<(Runtime, Sources)> = OnceLock::new();
    STAGE.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("ews-fuzz-{}", std::process::id()));
        let mut config = SourcesConfig::new(directory.join("scratch")).with_artifacts(directory.join("artifacts"));
        config.limits.packed = 1 << 20;
        config.limits.unpacked = 4 << 20;
        config.limits.entries = 1_000;
        let sources = Sources::new(config, Catalogue::built_in().expect("a catalogue")).expect("sources");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        (runtime, sources)
    })
}

fuzz_target!(|bytes: &[u8]| {
    let (runtime, sources) = stage();
    let piece = bytes::Bytes::copy_from_slice(bytes);
    let stream = futures_util::stream::iter([Ok(piece)]).boxed();
    runtime.block_on(async {
        let Ok(artifact) = sources.receive(stream, None).await else { return };
        let spec = ServiceSpec::new("web".parse().expect("a name"), Source::Artifact(ArtifactSource::new("/none")));
        let request: SourceRequest = ProcessRequest::new(artifact).into();
        let Ok(made) = sources.resolve(&request, spec.clone()).await else { return };
        let Source::Artifact(kept) = &made.spec.instance.source else { unreachable!("no artifact") };
        let again = sources.receive_path(kept.location.as_ref()).await.expect("what is kept can be received");
        let again: SourceRequest = ProcessRequest::new(again).into();
        let again = sources.resolve(&again, spec).await.expect("what is kept can be taken");
        assert_eq!(again.provenance.layer, made.provenance.layer, "the same content is the same layer");
        sources.forget_artifacts(&[]).await.expect("what is kept can be removed");
    });
    assert_eq!(sources.scratch_used(), 0, "nothing stays");
});
