//! What was being done when something failed.

use std::fmt;

use serde::{Serialize, Serializer};

/// Declares the variants of [`Operation`] with their texts, so that neither can miss the other.
macro_rules! operations {
    ($($variant:ident = $text:literal,)*) => {
        /// What was being done when something failed: a request to a registry, a file, a step of a command. Code decides by the
        /// variant. The text, a verb phrase, is what messages and reports show ("get manifest").
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the text of each variant says what it is")]
        pub enum Operation {
            $($variant,)*
        }

        impl Operation {
            /// The verb phrase that messages and reports show.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Operation::$variant => $text,)*
                }
            }

            /// Whether it is a request that writes to a registry. A 404 then means a missing repository, not missing content.
            pub(crate) fn is_push(self) -> bool {
                self.is_upload() || matches!(self, Operation::MountBlob | Operation::PutManifest)
            }

            /// Whether it is a request of a blob upload.
            pub(crate) fn is_upload(self) -> bool {
                matches!(self, Operation::StartUpload | Operation::UploadBlob)
            }
        }
    };
}

operations! {
    AskForLimits = "ask for limits",
    CheckApi = "ask for the API",
    CheckBlob = "check blob",
    CheckFolders = "check folders",
    CheckManifest = "check manifest",
    CheckSpace = "check space",
    CheckTag = "check tag",
    CheckVolumes = "check volumes",
    ChoosePlatforms = "choose platforms",
    CleanLayout = "clean layout",
    CompareClocks = "compare clocks",
    CompareImage = "compare image",
    CompareWithLock = "compare with lock",
    CopyBlob = "copy blob",
    CopyImage = "copy image",
    CopyManifest = "copy manifest",
    CopyReferrer = "copy referrer",
    CreateLayout = "create layout",
    Examine = "examine",
    ExportRules = "export rules",
    Gc = "gc",
    GetBlob = "get blob",
    GetForeignLayer = "get foreign layer",
    GetManifest = "get manifest",
    GetToken = "get token",
    HeadBlob = "head blob",
    HeadManifest = "head manifest",
    Import = "import",
    ImportImage = "import image",
    ImportRules = "import rules",
    Inventory = "inventory",
    KeepParts = "keep parts",
    ListLayout = "list layout",
    ListReferrers = "list referrers",
    ListRepositories = "list repositories",
    ListTags = "list tags",
    Listen = "listen",
    LockLayout = "lock layout",
    LogIn = "log in to",
    LookForBlob = "look for blob",
    LookForCache = "look for a cache",
    LookUpCredentials = "look up credentials",
    MergeLists = "merge lists",
    MountBlob = "mount blob",
    NameImage = "name image",
    OpenCache = "open cache",
    OpenLayout = "open layout",
    OpenState = "open state",
    PackImage = "pack image",
    PackVolumes = "pack volumes",
    Ping = "ask for /v2/",
    PlanVolumes = "plan volumes",
    PrepareDemo = "prepare demo",
    PrintManPage = "print man page",
    Publish = "publish",
    PutManifest = "put manifest",
    Read = "read",
    ReadArchive = "read archive",
    ReadAs = "read --as",
    ReadBase = "read base",
    ReadBlob = "read blob",
    ReadBundle = "read bundle",
    ReadCa = "read ca",
    ReadCertificate = "read certificate",
    ReadClientCert = "read client_cert",
    ReadClientKey = "read client_key",
    ReadConfiguration = "read configuration",
    ReadCreationDate = "read creation date",
    ReadEndpoint = "read the endpoint of",
    ReadEvidence = "read evidence",
    ReadImage = "read image",
    ReadInventory = "read inventory",
    ReadLayout = "read layout",
    ReadLimits = "look at the limits",
    ReadList = "read list",
    ReadListen = "read --listen",
    ReadLists = "read lists",
    ReadLock = "read lock",
    ReadManifest = "read manifest",
    ReadName = "read --name",
    ReadOf = "read --of",
    ReadOptions = "read options",
    ReadProxyAddress = "read the proxy's address",
    ReadRegistry = "read registry",
    ReadTarget = "read target",
    ReadTo = "read --to",
    ReadVolume = "read volume",
    ReadWarmed = "read what was warmed",
    RemoveStagedContent = "remove staged content",
    RepairVolume = "repair volume",
    ReservePulls = "reserve pulls",
    Resolve = "resolve",
    ResolveTag = "resolve tag",
    RewriteIndex = "rewrite index",
    Run = "run",
    SaveWarmed = "keep what was warmed",
    Scan = "scan",
    SelectTags = "select tags",
    Serve = "serve",
    SetDamagedBlobAside = "set damaged blob aside",
    SetUpHttp = "set up HTTP",
    StageVolume = "stage content of volume",
    Start = "start",
    StartImage = "start image",
    StartUpload = "start upload",
    UnpackArchive = "unpack archive",
    UploadBlob = "upload blob",
    UseLayout = "use layout",
    Verify = "verify",
    VerifyBundle = "verify bundle",
    VerifyWarm = "verify warm",
    WriteBlob = "write blob",
    WriteEvidence = "write evidence",
    WriteFailedList = "write failed list",
    WriteLayout = "write layout",
    WriteLock = "write lock",
    WriteMetrics = "write metrics",
    WriteReport = "write report",
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
