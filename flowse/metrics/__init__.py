"""Metrics of enhanced speech: DNSMOS, intrusive scores, speaker similarity, word errors, and their summary."""
