"""The journal's MESSAGE_ID of each event that its catalog explains.

Source: systemd.journal-fields(7).  An id means the same for ever: what administrators have in their filters
outlives every version.  An event of another meaning gets a new one, and none is given a second time.

What this module does not do: explain them (`systemd/catalog/dmimad.catalog`), or log.
"""

from __future__ import annotations

from collections.abc import Mapping

#: By event; an alert's beginning and end are two.
MESSAGE_IDS: Mapping[str, str] = {
    "alert_firing": "2bb77acfa551443c97a349c26254942b",
    "alert_resolved": "d764c277469e4b699e0bd571ec112fe5",
    "started": "2f4583a8b01a41358f7c9784b702c739",
    "stopping": "0ece056702c24523804da4fb6624bade",
    "reloaded": "05fc5c0174234a9a8a89aae4270febaa",
    "reload_refused": "b5a871356cfa4dd7a62cc2a7188908be",
    "restart_needed": "8bc60f1cc65042a29e0ac1b4acc9e01c",
    "baseline_loaded": "fa8d9ddd520746dbb7396d5aadf05dee",
    "baseline_refused": "0695f7e3415d4b219c121329649cc624",
    "files_loaded": "90f30181fc914186bc85eafa6a1c7a86",
    "files_refused": "656460d6a82f43c996423dd05cce0943",
    "in_clear": "f1e49388c5764d37b0850d169affd747",
    "store_failed": "9071a0a4625f4139bfeee8751e64be79",
    "store_recovered": "ccd84f924be74e529f85f496590789e5",
    "history_lost": "935771b703bc46dfa8d24f2739ec08db",
    "state_notice": "607c3c817563497ebd0b927d03a8a023",
    "outbox_unreadable": "cb93af2075c442f0b810624a25ed7178",
    "alerts_dropped": "83cf64b43305412dabe4857bf28cc854",
    "beginning_again": "fa0873f472f94812b7aa74016cfd428e",
    "state_not_handed_over": "030d6484a4f4492f89210e9657db7a55",
    "list_unavailable": "365b1779dea047cdbf5ba36dff8fd67e",
    "list_unreadable": "5596250ef56545038cd7dcca43377490",
    "list_restarted": "c687209f1141460ba34ef27fd1c491d0",
    "list_gap": "b7b6c874abbc4aa6ac93a607e73f41e2",
    "reading_from_start": "044a6a895cf944b9bd4187828c7aa80b",
    "live_witness_unavailable": "f4b9bcf31efe44e1a25843ab22a5bd17",
    "live_witness_available": "4decf1917102433ba2202f61b7139864",
    "live_watch_lost": "f3bf6c05fe4743a9beec604f3720a76b",
    "live_watch_regained": "cd8562fdc3534cae84ad4400c23eb70c",
    "live_observer_not_ended": "0735fd8c2ca045e69834c6470c505843",
    "uevents_unavailable": "b3d6dd43c42d450d8516877b109afe78",
    "inotify_unavailable": "9f60bf3f031a45e4a6a3f6b31d9acd51",
    "tpm_unavailable": "dd6e7b4e8e0946159ac0039ab789b00f",
    "clock_stepped": "c1e3d9d40bc549f4a9008ab926907a9e",
    "mqtt_connected": "21ec312897f741e083c61083f1771be0",
    "mqtt_unavailable": "a7647ecca37a48238e52de2c990b7874",
    "mqtt_publish_refused": "9c51c41fbb7c4fa6bbf747f8ab6ce73c",
    "alert_not_delivered": "7913c611071d4aad980ca80e8ac07f60",
    "mqtt_host_id_taken": "851dabed9e434e9987a4811e2912e7cc",
    "mqtt_host_id_ours_again": "aa67b0c33a1d48318f5e30b01dfa9a7f",
    "maintenance_started": "9b57da0383264a95a338c60e32017db3",
    "maintenance_ended": "d09047bd64cd4331a5d05288361eecaa",
    "control_unavailable": "2c739fe2af75437cb2168b03adb89a00",
    "control_refused": "c70c4160f3d541c28fa71056d1908b2c",
    "control_user_unknown": "41615de05d814e4db8cd0729a403e156",
    "control_failed": "32f2e937c02d4a9299cd1b9da1fa6fd4",
    "metrics_not_accepting": "1ca1064a97bf4b9f987ed287dced1384",
    "page_unavailable": "de8b0774651c4ec1ac3e690c1e0f8c93",
    "page_failed": "119d80aa20084db8b3308083c42f1eb1",
    "page_not_accepting": "97fa08bace364089bd47f8516468b23d",
    "task_hangs": "2c0b3b5e22c04e98bfb5f93ddb44a687",
    "task_goes_on": "eee2d04b842a4f2a89e055a40538f7ca",
    "service_manager_not_notified": "2cece5325ce246a08e2dc5e6b7632bfc",
}


def message_id(event: str, values: Mapping[str, object]) -> str | None:
    """The id of an event with these values; None: the catalog does not explain it."""
    return MESSAGE_IDS.get(f"alert_{values.get('status')}" if event == "alert" else event)
