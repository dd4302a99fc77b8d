"""Ready agents: llm, classifier, aggregator."""
