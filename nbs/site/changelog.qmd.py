"""---
title: Changelog
description: What changed in each version
repo-actions: false
---"""
from rlgen._site import project_page

print(project_page('CHANGELOG.md'))
