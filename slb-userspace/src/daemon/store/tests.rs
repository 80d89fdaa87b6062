//! Tests of the overrides' file: what is written, read back, refused and ended.

use super::*;
use crate::server::changes::overrides::in_words;
use slb_api::types::Requester;
use slb_config::samples::shop;
use slb_control::model::AdminState;

type Override = (OverrideKey, OverrideRecord);

fn record(server: &str, weight: Option<u8>, state: Option<AdminState>) -> Override {
    let by = Requester { uid: Some(0), user: Some("root".to_owned()), pid: Some(7) };
    let key = OverrideKey::Group { group: "web".parse().unwrap(), server: server.parse().unwrap() };
    let setting = ServerOverride { weight, state };
    (key, OverrideRecord { setting, by, at: "2026-11-21T09:00:00Z".to_owned() })
}

fn set(store: &mut Store, (key, record): Override) -> Result<()> {
    store.replace(|records| drop(records.insert(key, record)))
}

fn home() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state");
    (home, directory)
}

fn words(changes: &[ApiOverrideChange]) -> Vec<String> {
    changes.iter().map(in_words).collect()
}

#[test]
fn overrides_are_read_back_from_a_private_file() {
    let (_home, directory) = home();
    let mut store = Store::open(&directory);
    assert_eq!((store.trouble(), store.settings().len()), (None, 0));
    set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap();
    set(&mut store, record("[fd00::1]:80", None, Some(AdminState::Disabled))).unwrap();
    let records = store.records().clone();
    drop(store);
    let store = Store::open(&directory);
    assert_eq!(*store.records(), records);
    assert_eq!(store.settings().len(), 2);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join(FILE))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn torn_or_foreign_override_file_is_left_unchanged() {
    let whole = {
        let (_home, directory) = home();
        set(&mut Store::open(&directory), record("10.0.0.11:8080", Some(5), None)).unwrap();
        fs::read_to_string(directory.join(FILE)).unwrap()
    };
    let torn = &whole[..whole.len() / 2];
    for (text, word) in [
        ("", "EOF"),
        (torn, "EOF"),
        ("mine", "expected value"),
        ("{\"version\":3,\"rules\":[]}", "version 3, and this slbd knows versions 1 to 2"),
        ("{\"version\":2,\"overrides\":[],\"more\":1}", "unknown field `more`"),
        (&whole.replace("10.0.0.11:8080", "10.0.0.11"), "10.0.0.11"),
        (&whole.replace("\"weight\": 5", "\"weight\": 101"), "a weight beyond 100"),
        (&whole.replace("\"weight\": 5", "\"weight\": null"), "nothing is set"),
    ] {
        let (_home, directory) = home();
        fs::create_dir(&directory).unwrap();
        let path = directory.join(FILE);
        fs::write(&path, text).unwrap();
        let mut store = Store::open(&directory);
        let trouble = store.trouble().unwrap().to_owned();
        assert!(trouble.contains(word) && trouble.contains("mv "), "{trouble}");
        let refused = set(&mut store, record("10.0.0.12:8080", Some(6), None)).unwrap_err().to_string();
        assert!(refused.contains("mv "), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        fs::rename(&path, path.with_extension("old")).unwrap();
        set(&mut store, record("10.0.0.12:8080", Some(6), None)).unwrap();
        assert_eq!(store.trouble(), None);
    }
}

#[test]
fn override_file_of_wrong_type_or_mode_is_not_read() {
    let (_home, directory) = home();
    fs::create_dir_all(directory.join(FILE)).unwrap();
    let store = Store::open(&directory);
    let trouble = store.trouble().unwrap();
    assert!(trouble.contains("is not a file: move it away"), "{trouble}");

    let (_home, directory) = home();
    set(&mut Store::open(&directory), record("10.0.0.11:8080", Some(5), None)).unwrap();
    fs::set_permissions(directory.join(FILE), fs::Permissions::from_mode(0o666)).unwrap();
    let store = Store::open(&directory);
    let trouble = store.trouble().unwrap();
    assert!(trouble.contains("everyone may write to it: move it away"), "{trouble}");
    assert!(store.records().is_empty());
}

#[test]
fn override_is_refused_if_its_file_cannot_be_written() {
    let (_home, directory) = home();
    let mut store = Store::open(&directory);
    // It blocks the temporary file and is not removed with it.
    fs::create_dir_all(directory.join("overrides.json.new/theirs")).unwrap();
    let refused = set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap_err();
    let refused = format!("{refused:#}");
    assert!(refused.contains("cannot write") && refused.contains("nothing was changed"), "{refused}");
    assert!(store.records().is_empty());
}

#[test]
fn truncated_override_file_is_refused() {
    let (_home, directory) = home();
    set(&mut Store::open(&directory), record("10.0.0.11:8080", Some(5), None)).unwrap();
    let whole = fs::read_to_string(directory.join(FILE)).unwrap();
    // The last character is the end of the line.
    for length in 0..whole.len() - 1 {
        assert!(stored::parse(&whole[..length]).is_err(), "{length} bytes");
    }
    assert!(stored::parse(&whole).is_ok());
}

#[test]
fn state_directory_that_cannot_be_created_is_reported() {
    let (_home, directory) = home();
    let words = "clear its place, or set it to another directory: ";
    fs::write(&directory, "mine").unwrap();
    // Where not even root can make one.
    for (directory, why) in [
        (directory.clone(), "File exists"),
        (directory.join("below"), "Not a directory"),
        (PathBuf::from("/proc/slb"), "No such file or directory"),
    ] {
        let mut store = Store::open(&directory);
        let trouble = store.trouble().unwrap().to_owned();
        let override_key = format!("cannot make [daemon] state_dir {}: ", directory.display());
        assert!([override_key.as_str(), words, why].iter().all(|word| trouble.contains(word)), "{trouble}");
        assert!(set(&mut store, record("10.0.0.11:8080", Some(5), None)).is_err());
    }
    let mut store = Store::open(&directory);
    assert_eq!(fs::read_to_string(&directory).unwrap(), "mine");
    fs::remove_file(&directory).unwrap();
    set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap();
    assert_eq!(store.trouble(), None);
}

#[test]
fn override_stays_with_a_renamed_group_of_the_same_id_only() {
    let (_home, directory) = home();
    let mut store = Store::open(&directory);
    for server in ["10.0.0.11:8080", "10.0.0.12:8081"] {
        set(&mut store, record(server, Some(5), None)).unwrap();
    }
    let before = shop(&[]);
    let target = ("server_group = \"web\"", "server_group = \"www\"");
    let group = ("name = \"web\"\nservers", "id = \"web\"\nname = \"www\"\nservers");
    let renamed = shop(&[target, group]);
    assert_eq!(words(&store.without_effect(&renamed, &before)), [""; 0]);
    assert_eq!(words(&store.prune(&[&renamed], &before)), [""; 0]);
    assert_eq!(store.records().len(), 2);

    let smaller = shop(&[target, group, ("  { address = \"10.0.0.12\", port = 8081 },\n", "")]);
    let what = "server group www: server 10.0.0.12:8081: what was set for it";
    let why = "(weight 5): it is not configured any more";
    assert_eq!(words(&store.without_effect(&smaller, &renamed)), [format!("{what} does not apply {why}")]);
    assert_eq!(words(&store.prune(&[&smaller], &renamed)), [format!("{what} ends {why}")]);
    assert_eq!(store.records().len(), 1);

    // Without the id, the group is another one. The name is that of the configuration before.
    let other = shop(&[("\"web\"", "\"www\"")]);
    let what = "server group www: server 10.0.0.11:8080: what was set for it";
    let why = format!("{why}; a server group that was renamed keeps it with `id = \"web\"`");
    assert_eq!(words(&store.without_effect(&other, &smaller)), [format!("{what} does not apply {why}")]);
    assert_eq!(words(&store.prune(&[&other], &smaller)), [format!("{what} ends {why}")]);
    assert_eq!(stored::parse(&fs::read_to_string(directory.join(FILE)).unwrap()).unwrap().len(), 0);
}

#[test]
fn file_of_version_1_is_read_and_replaced_at_the_next_change() {
    let (_home, directory) = home();
    fs::create_dir(&directory).unwrap();
    let old = r#"{"version":1,"overrides":[{"server_group":"web","load_balancer":null,"server":"10.0.0.11:8080",
        "weight":5,"state":null,"by":{"uid":0,"user":"root","pid":7},"at":"2026-11-21T09:00:00Z"}]}"#;
    fs::write(directory.join(FILE), old).unwrap();
    let mut store = Store::open(&directory);
    assert_eq!((store.trouble(), store.records().len()), (None, 1));
    assert!(store.records().keys().all(|key| key.exists(&shop(&[]))));
    set(&mut store, record("10.0.0.12:8081", None, Some(AdminState::Draining))).unwrap();
    let text = fs::read_to_string(directory.join(FILE)).unwrap();
    assert!(text.contains("\"version\": 2"), "{text}");
    assert_eq!(stored::parse(&text).unwrap(), *store.records());
}

#[test]
fn second_daemon_cannot_use_the_same_state_directory() {
    let (_home, directory) = home();
    let _first = Store::open(&directory);
    let mut second = Store::open(&directory);
    assert!(second.trouble().unwrap().contains("another slbd uses"), "{:?}", second.trouble());
    assert!(set(&mut second, record("10.0.0.11:8080", Some(5), None)).is_err());
}

#[test]
fn temporary_file_of_a_killed_daemon_is_overwritten() {
    let (_home, directory) = home();
    let mut store = Store::open(&directory);
    fs::write(directory.join("overrides.json.new"), "{").unwrap();
    set(&mut store, record("10.0.0.11:8080", Some(5), None)).unwrap();
    assert_eq!(stored::parse(&fs::read_to_string(directory.join(FILE)).unwrap()).unwrap().len(), 1);
}
