//! Reading by offset, over parts, and away from what is damaged.

use std::path::Path;

use super::*;
use crate::bundle::read::PieceLocation;
use crate::content::Verified;

const SEED: &[u8] = b"the quick brown fox jumps over the lazy dog";

fn file(folder: &Path, name: &str, bytes: &[u8]) -> Arc<Path> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.into()
}

fn piece(source: &mut BundleSource, path: &Arc<Path>, offset: u64, len: usize) -> Piece {
    let origin = source.add_file(ContentFile { path: path.to_path_buf(), volume: None });
    Piece { origin, location: PieceLocation::File { path: Arc::clone(path), offset }, len: len as u64 }
}

fn blob() -> Descriptor {
    Descriptor::new("", Digest::sha256(SEED), SEED.len() as u64)
}

async fn bytes(source: &BundleSource, offset: u64) -> Result<Vec<u8>> {
    let context = RequestContext::new("test");
    let stream = source.blob(&Repository::new("a"), &blob(), offset, &context).await?.unwrap();
    let all: Vec<Bytes> = stream.try_collect().await?;
    assert_eq!(context.tally.bytes_read(), all.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
    Ok(all.concat())
}

#[tokio::test]
async fn a_blob_is_read_from_any_offset_whole_or_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let volume = file(folder.path(), "v", &[b"head", SEED, b"tail"].concat());
    let mut whole = BundleSource::default();
    let at = piece(&mut whole, &volume, 4, SEED.len());
    whole.add(blob().digest, at);
    let mut parts = BundleSource::default();
    for (number, (offset, len)) in (1..).zip([(0, 10), (10, 1), (11, SEED.len() - 11)]) {
        let at = piece(&mut parts, &volume, 4 + offset, len);
        parts.add_part(&blob().digest, (number, offset, SEED.len() as u64), at, false);
        assert_eq!(parts.availability(&blob()), Availability::Absent);
        parts.join();
    }
    assert_eq!((parts.availability(&blob()), parts.incomplete().count(), parts.joined().count()), (Availability::Here, 0, 1));
    for offset in 0..=SEED.len() {
        for source in [&whole, &parts] {
            assert_eq!(bytes(source, offset as u64).await.unwrap(), &SEED[offset..], "{offset}");
        }
    }
    assert_eq!(whole.availability(&Descriptor { size: 5, ..blob() }), Availability::Absent, "a blob of another size is another blob");
}

#[tokio::test]
async fn what_is_spoilt_is_read_from_another_copy_and_then_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (wrong, right) = (file(folder.path(), "wrong", &[7; SEED.len()]), file(folder.path(), "right", SEED));
    let mut source = BundleSource::default();
    for path in [&wrong, &right] {
        let at = piece(&mut source, path, 0, SEED.len());
        source.add(blob().digest, at);
    }
    let first = source.current_copy(&blob().digest).unwrap();
    source.mark_damaged(&blob().digest, first, "wrong".to_owned());
    // Who was told of the same damage later does not spoil the next copy.
    source.mark_damaged(&blob().digest, first, "again".to_owned());
    assert_eq!(bytes(&source, 0).await.unwrap(), SEED);
    assert_eq!(source.damage(), [Damage { digest: blob().digest, origins: vec![0], why: "wrong".to_owned() }]);
    source.mark_damaged(&blob().digest, source.current_copy(&blob().digest).unwrap(), "too".to_owned());
    assert_eq!(source.availability(&blob()), Availability::Damaged);
    let error = bytes(&source, 0).await.unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.message().contains("wrong"), "{error}");
}

#[tokio::test]
async fn a_file_that_ends_early_or_is_gone_gives_no_whole_blob() {
    let folder = tempfile::tempdir().unwrap();
    let short = file(folder.path(), "short", &SEED[..20]);
    let gone: Arc<Path> = folder.path().join("gone").into();
    for path in [&short, &gone] {
        let mut source = BundleSource::default();
        let at = piece(&mut source, path, 0, SEED.len());
        source.add(blob().digest, at);
        let read = async {
            let stream = source.blob(&Repository::new("a"), &blob(), 0, &RequestContext::new("test")).await?.unwrap();
            Verified::whole(stream, &blob(), Side::Local)?.try_collect::<Vec<Bytes>>().await
        };
        assert_eq!(read.await.unwrap_err().kind(), Kind::Damaged, "{}", path.display());
    }
}

#[tokio::test]
async fn manifests_are_checked_and_their_types_known_from_who_refers_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        br#"{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    let digest = Digest::sha256(text);
    let mut turned = text.to_vec();
    turned[10] ^= 1;
    let (wrong, right) = (file(folder.path(), "wrong", &turned), file(folder.path(), "right", text));
    let mut source = BundleSource::default();
    for path in [&wrong, &right] {
        let at = piece(&mut source, path, 0, text.len());
        source.add(digest.clone(), at);
    }
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    source.note_media_types(&[Descriptor::new(docker, digest.clone(), text.len() as u64)]);
    let manifest = source.read_manifest(&digest).await.unwrap().unwrap();
    assert_eq!((manifest.media_type(), &manifest.bytes()[..]), (docker, &text[..]));
    assert_eq!(source.damage().len(), 1);
    assert!(source.read_manifest(&Digest::sha256(b"absent")).await.unwrap().is_none());
}
