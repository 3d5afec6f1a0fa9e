"""From hub messages in Kafka to Jirafe events, and one result for each record.

cli       the commands; the only package that prints
app       builds all parts from the settings
engine    Kafka: poll, dispatch, commit, revoke, stop; its interface is `ports.py`
delivery  the engine's handler: decode, map, send, decide, write results (with `schemas` and `jirafe`)
admin     tools for operators, outside of the group: replay, redrive, audit, lag, check, offsets
monitor   metrics, status, page: implements the engine's hooks
demo      an embedded broker and a simulated shop
"""
