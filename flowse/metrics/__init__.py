"""How good enhanced speech is: intrusive scores, DNSMOS, speaker similarity and word errors."""
