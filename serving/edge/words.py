"""HELP: what each sample of the metrics page means, in a sentence."""

from __future__ import annotations

HELP: dict[str, str] = {
    "serving_requests_total": "requests that were let in and have ended, by outcome",
    "serving_request_duration_seconds": "from the moment a gateway took a request to its answer",
    "serving_rejected_total": "requests refused at the door, by reason",
    "serving_inflight_requests": "requests that were let in and have not ended",
    "serving_rows_total": "rows of all answers",
    "serving_queue_seconds_total": "time that requests have waited in replicas",
    "serving_compute_seconds_total": "time of the model for each answer, whoever shared its batch",
    "serving_request_bytes_total": "tensor bytes of requests that were answered",
    "serving_response_bytes_total": "tensor bytes of answers",
    "serving_last_answer_timestamp_seconds": "time of the last answer, in seconds since 1970",
    "serving_queue_duration_seconds": "time that each request waited in a replica before its batch began",
    "serving_compute_duration_seconds": "time that each batch took, joining included",
    "serving_batch_rows": "rows of each batch",
    "serving_replica_requests_total": "requests that replicas have done with, by what became of them",
    "serving_replica_alone_total": "requests that ran again without the neighbours of a batch that failed",
    "serving_replica_nan_rows_total": "rows of answers with a NaN in them",
    "serving_queue_requests": "requests that wait in replicas",
    "serving_queue_bytes": "tensor bytes that wait in replicas",
    "serving_open_requests": "requests in replicas, waiting or running",
    "serving_replicas": "replicas by state: running; wanted is how many there should be",
    "serving_version_ready": "1 where a version can be called, by model and version",
    "serving_start_failures": "starts of a version's replicas that have failed one after another",
    "serving_revision": "revision of what is to run that the controller works on",
    "serving_settled": "1 while everything is as it should be",
    "serving_gateways_wanted": "gateways that there should be",
    "serving_processes": "processes of the engine that report, by kind",
    "serving_process_cpu_seconds_total": "processor time of the engine's processes, by kind",
    "serving_process_resident_memory_bytes": "resident memory of the engine's processes, by kind; what they share counts in each",
}
