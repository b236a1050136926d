"""The measurements that docs/performance.md shows, and its tables."""
