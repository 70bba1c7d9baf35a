"""The stock toolkits of the field: HEAR, s3prl and X-ARES."""
