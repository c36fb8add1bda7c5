"""The faults of the campaign: what is done to a repository, and what mends it."""

from __future__ import annotations

from campaign.faults.broken_off import (
    CutPublish,
    KillPrepare,
    KillPublish,
    KillPublishFolder,
    KillRollback,
    Together,
)
from campaign.faults.changing import ChangedImage, ClockPrepare, ClockPublish
from campaign.faults.damaged import (
    DamagedAnchors,
    DamagedBeforePublish,
    DamagedDescription,
    DamagedFailures,
    DamagedGenerations,
    DamagedImages,
    DamagedJournal,
    DamagedLocks,
    DamagedMetadata,
    DamagedPublisherLock,
    DamagedRdiffs,
    DamagedRemoteMetadata,
    DamagedRemotes,
)
from campaign.faults.each import EachStepOfPrepare, EachStepOfPublish, EachStepOfRollback
from campaign.faults.failing import (
    EioImages,
    EioPublishFolder,
    EioRdiffs,
    EioState,
    FullMirrorPublish,
    FullPrepare,
    FullPublishFolder,
    FullRemote,
    ReadOnlyPrepare,
    ReadOnlyPublishFolder,
    ServerFails,
    ServerFailsRollback,
)
from campaign.faults.fault import Fault
from campaign.faults.overtaken import LockStolen, RollbackBetween, StaleTask
from campaign.faults.power import ServerPowerCut
from campaign.faults.vanished import ImageDirUnmounted, StateCleared, TruncatedNewcomer

__all__ = ["EACH", "FAMILIES", "FAULTS", "Fault"]

FAULTS: dict[str, type[Fault]] = {
    "kill-prepare": KillPrepare,
    "kill-publish": KillPublish,
    "kill-publish-folder": KillPublishFolder,
    "kill-rollback": KillRollback,
    "cut-publish": CutPublish,
    "together": Together,
    "full-prepare": FullPrepare,
    "full-publish-folder": FullPublishFolder,
    "server-fails-publish": ServerFails,
    "server-fails-rollback": ServerFailsRollback,
    "full-publish-remote": FullRemote,
    "full-publish-mirror": FullMirrorPublish,
    "read-only-prepare": ReadOnlyPrepare,
    "read-only-publish-folder": ReadOnlyPublishFolder,
    "eio-images": EioImages,
    "eio-rdiffs": EioRdiffs,
    "eio-state": EioState,
    "eio-publish-folder": EioPublishFolder,
    "damaged-image-records": DamagedImages,
    "damaged-rdiff-records": DamagedRdiffs,
    "damaged-failures": DamagedFailures,
    "damaged-anchors": DamagedAnchors,
    "damaged-description": DamagedDescription,
    "damaged-before-publish": DamagedBeforePublish,
    "damaged-remotes": DamagedRemotes,
    "damaged-locks": DamagedLocks,
    "damaged-metadata": DamagedMetadata,
    "damaged-remote-journal": DamagedJournal,
    "damaged-remote-generations": DamagedGenerations,
    "damaged-remote-metadata": DamagedRemoteMetadata,
    "damaged-remote-lock": DamagedPublisherLock,
    "changed-image": ChangedImage,
    "clock-prepare": ClockPrepare,
    "clock-publish": ClockPublish,
    "stale-task": StaleTask,
    "rollback-between": RollbackBetween,
    "lock-stolen": LockStolen,
    "server-power-cut": ServerPowerCut,
    "image-dir-unmounted": ImageDirUnmounted,
    "truncated-newcomer": TruncatedNewcomer,
    "operator-clears-state": StateCleared,
}

# Faults that are alike; the suite tries one of some families, `make campaign` every one.
FAMILIES = (
    # EACH has the short form of the killed ones, too.
    ("kill-prepare", "kill-publish", "kill-publish-folder", "kill-rollback", "cut-publish"),
    ("together", "stale-task", "rollback-between", "lock-stolen"),
    (
        "full-prepare",
        "full-publish-folder",
        "full-publish-remote",
        "full-publish-mirror",
        "read-only-prepare",
        "read-only-publish-folder",
    ),
    ("eio-images", "eio-rdiffs", "eio-state", "eio-publish-folder"),
    ("server-fails-publish", "server-fails-rollback", "server-power-cut"),
    (
        "damaged-image-records",
        "damaged-rdiff-records",
        "damaged-failures",
        "damaged-anchors",
        "damaged-description",
        "damaged-metadata",
        "damaged-before-publish",
        "damaged-remotes",
    ),
    (
        "damaged-remote-journal",
        "damaged-remote-generations",
        "damaged-remote-metadata",
        "damaged-locks",
        "damaged-remote-lock",
    ),
    ("changed-image", "truncated-newcomer", "image-dir-unmounted", "operator-clears-state"),
    ("clock-prepare", "clock-publish"),
)

EACH: dict[str, type[Fault]] = {
    "each-step-of-prepare": EachStepOfPrepare,
    "each-step-of-publish": EachStepOfPublish,
    "each-step-of-rollback": EachStepOfRollback,
}
