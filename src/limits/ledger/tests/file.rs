//! The file: its form, damage, and files of other versions.

use super::*;

#[test]
fn damage_is_moved_aside_and_a_newer_file_is_left_alone() {
    for damage in ["", "{\"version\": 1, \"accounts\": {\"docker.io|hub|\": {\"limit\"", "[]", "{\"version\": 1}", "\0\0\0\0"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pulls.json"), damage).unwrap();
        let mut process = Process::new(Ledger::open(dir.path()));
        assert_eq!(process.ledger.recall(&account(), at(0)), None, "{damage}");
        assert_eq!(process.lease(1, view(10), 1), Decision::Granted);
        assert_eq!(std::fs::read_to_string(dir.path().join("pulls.json.damaged")).unwrap(), damage);
    }
    let dir = tempfile::tempdir().unwrap();
    for newer in [r#"{"version": 2, "pools": []}"#, r#"{"version": 2, "accounts": {}}"#] {
        std::fs::write(dir.path().join("pulls.json"), newer).unwrap();
        let failure = Ledger::open(dir.path()).store.transact(|_| Some(())).unwrap_err();
        assert!(failure.permanent && failure.message.contains("use the newer larder"), "{failure:?}");
        assert_eq!(std::fs::read_to_string(dir.path().join("pulls.json")).unwrap(), newer);
    }
}

#[test]
fn a_file_that_is_too_large_is_not_read_into_memory_but_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("pulls.json")).unwrap();
    // Sparse: it takes no room on the disk.
    file.set_len(1 << 30).unwrap();
    let mut process = Process::new(Ledger::open(dir.path()));
    assert_eq!(process.lease(1, view(10), 1), Decision::Granted);
    assert_eq!(std::fs::metadata(dir.path().join("pulls.json.damaged")).unwrap().len(), 1 << 30);
}

#[test]
fn the_file_is_for_people_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::number(dir.path(), 7);
    assert_eq!(process.lease(2, heard(100, 60, 0), 0), Decision::Granted);
    let text = std::fs::read_to_string(dir.path().join("pulls.json")).unwrap();
    insta::with_settings!({ filters => [(r"7-[0-9a-f]{16}", "7-a")] }, {
    insta::assert_snapshot!(text, @r#"
    {
      "version": 1,
      "accounts": {
        "docker.io|hub|192.0.2.1": {
          "limit": 100,
          "window_seconds": 3600,
          "left": 60,
          "heard": {
            "sent": "2027-01-15T08:00:00Z",
            "arrived": "2027-01-15T08:00:00Z"
          },
          "source": "192.0.2.1",
          "unheard": 0,
          "unheard_at": null,
          "closes": "2027-01-15T09:00:00Z",
          "exact": false,
          "since": null,
          "spent": 0,
          "leases": [
            {
              "id": "7-a",
              "pid": 7,
              "started": 0,
              "place": "simulated",
              "pulls": 2,
              "expires": "2027-01-15T08:30:00Z"
            }
          ]
        }
      }
    }
    "#);
    });
}

#[test]
fn the_leases_that_an_earlier_version_wrote_for_each_image_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let row = |id: &str| format!(r#"{{"id":"{id}","pid":7,"started":0,"place":"simulated","pulls":3,"expires":"2027-01-15T08:30:00Z"}}"#);
    let text = format!(
        r#"{{"version":1,"accounts":{{"docker.io|hub|192.0.2.1":{{"limit":10,"window_seconds":3600,"left":10,"heard":null,
        "source":"192.0.2.1","unheard":1,"unheard_at":null,"closes":"2027-01-15T09:00:00Z","exact":false,"since":null,"spent":1,
        "leases":[{},{}]}}}}}}"#,
        row("7-1-0"),
        row("7-1-1")
    );
    std::fs::write(dir.path().join("pulls.json"), text).unwrap();
    let mut process = Process::number(dir.path(), 8);
    assert_eq!([process.lease(4, view(10), 1), process.lease(3, view(10), 1)], [Decision::InUse, Decision::Granted]);
}

#[test]
fn old_accounts_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::number(dir.path(), 1);
    assert_eq!(process.lease(1, heard(10, 5, 0), 0), Decision::Granted);
    let ask = LeaseRequest {
        account: AccountId { host: "quay.io".into(), name: "bob".into() },
        window: None,
        ..LeaseRequest::of(at(40 * 86_400))
    };
    process.ledger.settle(&ask);
    assert!(!std::fs::read_to_string(dir.path().join("pulls.json")).unwrap().contains("docker.io"));
}
