"""Files in and out: exports, imports, uploads, and the signed URLs that lead to them."""
