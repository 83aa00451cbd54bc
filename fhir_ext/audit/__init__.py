"""Accesses: noted on disk before the answer ends, handed to the queue, written as AuditEvents."""
