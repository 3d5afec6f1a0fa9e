"""From hub messages in Kafka to Jirafe events, and one result for each record.

cli       the commands; the only room that prints
app       joins the rooms, by the settings
engine    Kafka: poll, dispatch, commit, revoke, stop; knows its user through one port, `ports.py`
delivery  the engine's handler: decode, map, send, decide, word results (with `schemas` and `jirafe`)
admin     what operators use beside the group: replay, redrive, audit, lag, check, offsets
monitor   metrics, status, page: implements the engine's hooks
demo      an embedded broker and a simulated shop
"""
