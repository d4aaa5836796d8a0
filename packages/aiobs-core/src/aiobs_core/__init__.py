"""aiobs: observability for AI agents on OpenTelemetry."""
