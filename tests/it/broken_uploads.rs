//! Uploads that break off: they go on where the registry says they stand, and start again where it has forgotten them.

use crate::support::corpus::{ImageSpec, image};
use crate::support::fake::{Fake, Fault, Kind, Match, Options, Request};
use crate::support::layer::layer;
use crate::support::room::Room;

/// The layer's size: more than a blob that is kept in memory until it has left.
const SIZE: u64 = 6 << 20;

/// Where uploads break off.
const BREAKS_AT: u64 = SIZE / 10 * 9;

/// A sync of one image into `to`, of whose layer the first `breaks` uploads by this kind of request break off. Returns the upstream.
fn sync(to: &Fake, kind: Kind, breaks: usize) -> Fake {
    let (from, room) = (Fake::start(), Room::new());
    room.configure(&format!("registry = \"{}\"", to.addr()), &[(from.addr(), "m")]);
    image(&from, "app", Some("v1"), &ImageSpec::new([layer(1, usize::try_from(SIZE).unwrap())]));
    room.list([from.image("app:v1")]);
    to.fault(Match::kind(kind), breaks, Fault::CutUpload { after: BREAKS_AT });
    room.sync(&[]).0.ended(0);
    assert_eq!(to.digest("m/app", "v1"), from.digest("app", "v1"));
    from
}

fn sum(fake: &Fake, kind: Kind, of: impl Fn(&Request) -> u64) -> u64 {
    fake.requests().iter().filter(|request| request.kind == kind).map(of).sum()
}

fn count(fake: &Fake, kind: Kind) -> u64 {
    sum(fake, kind, |_| 1)
}

#[test]
fn a_broken_upload_goes_on_where_the_registry_says_it_stands() {
    let to = Fake::start();
    let from = sync(&to, Kind::UploadPut, 1);
    assert_eq!(count(&to, Kind::UploadGet), 1);
    let (sent, read) = (sum(&to, Kind::UploadPut, |request| request.bytes_in), sum(&from, Kind::BlobGet, |request| request.bytes_out));
    assert!(sent < SIZE + SIZE / 4, "{sent} bytes were sent for {SIZE}");
    assert!(read < SIZE + SIZE / 4, "{read} bytes were read for {SIZE}");
}

#[test]
fn a_registry_that_forgets_broken_uploads_is_asked_about_one_only() {
    let to = Fake::with(Options { keep_broken_uploads: false, ..Options::default() });
    sync(&to, Kind::UploadPut, 2);
    assert_eq!(count(&to, Kind::UploadGet), 1);
    assert_eq!(sum(&to, Kind::UploadPut, |request| request.bytes_in / BREAKS_AT), 3, "twice broken, once whole");
}

#[test]
fn an_upload_by_patch_goes_on_as_well() {
    let to = Fake::with(Options { max_put: Some(1 << 20), ..Options::default() });
    let from = sync(&to, Kind::UploadPatch, 1);
    assert_eq!(count(&to, Kind::UploadGet), 1);
    let (sent, read) = (sum(&to, Kind::UploadPatch, |request| request.bytes_in), sum(&from, Kind::BlobGet, |request| request.bytes_out));
    assert!(sent < SIZE + SIZE / 4, "{sent} bytes were sent for {SIZE}");
    // The PUT that was too large has read some, too.
    assert!(read < 2 * SIZE + SIZE / 4, "{read} bytes were read for {SIZE}");
}
